"""What help() shows well and the API pages would not: comments behind fields, and a sentence among the arguments."""

import re

import griffe


class Docstrings(griffe.Extension):
    """Makes an Attributes section of the comments behind a class's fields, a paragraph of "The others are those of ..."."""

    def on_class_members(self, *, cls, **kwargs):
        if cls.docstring is None or "Attributes:" in cls.docstring.value:
            return
        lines = []
        for name, field in cls.attributes.items():
            text = " ".join(cls.filepath.read_text().splitlines()[field.lineno - 1 : field.endlineno])
            _, hash_sign, comment = text.partition("  # ")
            if field.annotation is not None and hash_sign:
                lines.append(f"    {name}: {comment}")
                field.annotation = None
        if lines:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)

    def on_function_instance(self, *, func, **kwargs):
        if func.docstring is not None:
            func.docstring.value = re.sub(r"\n    (The others are .*)", r"\n\n\1", func.docstring.value)
