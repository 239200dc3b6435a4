"""The tree of errors, and each of them."""

import inspect

from victorian import errors as tree


def errors() -> str:
    each = [name for name, one in vars(tree).items() if inspect.isclass(one) and one.__module__ == tree.__name__]
    directives = [f".. autoexception:: {tree.__name__}.{name}" for name in each]
    return "\n".join(["```text", inspect.getdoc(tree) or "", "```", "", "```{eval-rst}", *directives, "```"])
