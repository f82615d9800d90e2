"""Columns of labels of any type that can name classes, as whole numbers or words."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ns_jax.errors import InputError


def plain(chunks: Sequence[pa.Array], where: str) -> pa.ChunkedArray:
    """The chunks as int64 or large_string, null where there is no label.

    Raises InputError, of `where`, for numbers and words side by side and for types that name no
    class.
    """
    found = [_plain(chunk, where) for chunk in chunks]
    kinds = {chunk.type for chunk in found if chunk.null_count < len(chunk)}
    if len(kinds) > 1:
        types = ", ".join(sorted({str(chunk.type) for chunk in chunks}))
        raise InputError(f"{where}: numbers and names side by side ({types}); write names in all")
    kind = kinds.pop() if kinds else pa.int64()
    return pa.chunked_array([pc.cast(chunk, kind) for chunk in found], kind)


def _plain(chunk: pa.Array, where: str) -> pa.Array:
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        return _plain(chunk.cast(kind.value_type), where)
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return _cast(chunk, pa.int64(), where)
    if pa.types.is_floating(kind):  # as pandas writes whole numbers where some are missing
        values = pc.cast(chunk, pa.float64())
        return _cast(pc.if_else(pc.is_nan(values), None, values), pa.int64(), where)
    words = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(is_kind(kind) for is_kind in words) or pa.types.is_boolean(kind):
        return _cast(chunk, pa.large_string(), where)
    if any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary)):
        return _cast(chunk, pa.large_string(), where)
    raise InputError(
        f"{where} holds {kind}: each row needs one class, as a whole number or a name. Of a list "
        "or a one-hot row write the place of the class"
    )


def _cast(chunk: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    try:
        return pc.cast(chunk, kind)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{where} holds {chunk.type}, not all of which are whole numbers or names of classes: "
            f"{error}"
        ) from None
