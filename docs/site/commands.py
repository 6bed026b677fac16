"""Puts the help of a command where a page says ``<!-- help: bench -->``, so that options are described in one place."""

import contextlib
import io
import os
import re

from dlm_kernels.__main__ import main


def on_page_markdown(markdown, **kwargs):
    return re.sub(r"<!-- help: ?(.*?) ?-->", lambda found: f"```text\n{_help(found[1].split())}```", markdown)


def _help(command):
    os.environ["COLUMNS"] = "100"
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return said.getvalue()
