"""The API's enums, made quick to use: a value looked up by name is an attribute like any other."""

from __future__ import annotations

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from temporalio.api.enums import v1 as enums


def settle() -> None:
    """Give every enum its values as attributes; otherwise each use fails a look-up first, and then asks a function.

    A step uses dozens: a workflow of one activity 29, which were 3 % of its folding (`benchmarks.fold`).
    """
    for wrapper in vars(enums).values():
        if isinstance(wrapper, EnumTypeWrapper):
            for name, number in wrapper.items():
                setattr(wrapper, name, number)
