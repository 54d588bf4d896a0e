"""Docstrings as the site shows them: roles of Sphinx as code, an example as a block of code. An extension of griffe."""

import re

import griffe

ROLE = re.compile(r':\w+:`~?([^`]+)`')
MATH = re.compile(r'\.\. math::\s*((?:.+\n?)+?)(?=\n|\Z)')
EXAMPLE = re.compile(r'^Example:$', flags=re.MULTILINE)


class ForMarkdown(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrite the docstring of a module, class or function."""
        if obj.docstring:
            text = ROLE.sub(r'`\1`', obj.docstring.value)
            text = MATH.sub(lambda match: f'`{" ".join(match[1].split())}`', text)
            obj.docstring.value = EXAMPLE.sub('Examples:', text)
