"""Fields of the result classes, for the API pages: the comment behind a field is what there is to say about it."""

import griffe


class FieldComments(griffe.Extension):
    """Gives a class whose fields have comments an Attributes section made of them."""

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
