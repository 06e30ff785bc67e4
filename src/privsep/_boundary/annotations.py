"""From an annotation to its form.

Runs on both sides, once for each parameter and result that has one.  What nothing
can be said about is an error, not something that passes.
"""

from __future__ import annotations

import io

from privsep._boundary import forms, loaded
from privsep._boundary.forms import Form
from privsep._boundary.loaded import NoneType, UnionType, arguments_of, origin_of
from privsep._wire.scalars import writer_of

TYPE_CHECKING = False  # not typing's, see loaded
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: what stands behind a parameter's colon: a class, or what `typing` makes
    Annotation: TypeAlias = Any

_BUILTINS = (str, int, bool, bytes, bytearray, NoneType)
_CONTAINERS: dict[str, tuple[type, ...]] = {
    "Sequence": (list, tuple),  # no str: that one meant a list of names is a classic
    "MutableSequence": (list,),
    "Reversible": (list, tuple),
    "Set": (frozenset, set),
    "MutableSet": (set,),
    "Collection": forms.ITEMS,
    "Container": forms.ITEMS,
    "Iterable": forms.ITEMS,
}
_BUFFERED = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
_BINARY = (io.FileIO, *_BUFFERED)
_TEXT = (io.TextIOWrapper,)
_OPEN_FILES: dict[object, tuple[type, ...]] = {
    io.IOBase: (*_BINARY, *_TEXT),
    io.RawIOBase: (io.FileIO,),
    io.BufferedIOBase: _BUFFERED,
    io.TextIOBase: _TEXT,
    **{kind: (kind,) for kind in (*_BINARY, *_TEXT)},
}
_DESCRIPTORS = (("socket", "socket"), ("privsep._wire.open_files", "Fd"))
#: typing's, by name
_OPEN_FILES_OF_TYPING = {
    "BinaryIO": _BINARY,
    "TextIO": _TEXT,
    "IO": (*_BINARY, *_TEXT),
}
_WRAPPERS = ("Required", "NotRequired", "ReadOnly")


class Unsupported(TypeError):
    """Nothing can be said about values of an annotation."""


class Compiler:
    """Makes forms of annotations, for one function.

    Args:
        convert: what is not of its type is converted, if that can be.
        result: it is for a result, which is rebuilt and not judged: what nothing
            can be said about passes as it is, and so does what `Annotated` adds.

    """

    def __init__(self, *, convert: bool = False, result: bool = False) -> None:
        self._convert = convert
        self._result = result
        self._records: dict[object, forms.Record] = {}

    def form(self, annotation: Annotation) -> Form:
        """Return the form of `annotation`.

        Raises:
            TypeError: it has none.

        """
        try:
            return self._form_of(annotation)
        except Unsupported:
            if self._result:
                return Form()
            raise

    def _form_of(self, annotation: Annotation) -> Form:  # noqa: PLR0911 - a table
        if annotation is loaded.of("typing", "Any") or annotation is object:
            return Form()
        origin: Annotation = origin_of(annotation) or annotation
        arguments = arguments_of(annotation)
        if origin is loaded.of("typing", "Annotated"):
            return self._annotated(*arguments)
        if origin is loaded.of("typing", "Union") or origin is UnionType:
            return self._union(arguments)
        if origin is loaded.of("typing", "Literal"):
            return self._literal(arguments)
        if origin is loaded.of("privsep.boundary", "Secret"):
            form = self.form(arguments[0] if arguments else object)
            return forms.SecretForm(form, origin)
        if isinstance(origin, type):
            return self._class(annotation, origin, arguments)
        return self._alias(annotation)

    def _annotated(self, annotation: object, *markers: object) -> Form:
        form = self.form(annotation)
        if self._result:
            return form
        for marker in markers:
            if callable(getattr(marker, "hold", None)):
                form = forms.Held(form, marker)
            elif callable(getattr(marker, "holds", None)):
                form = forms.Constrained(form, marker)
        return form

    def _union(self, arguments: tuple[Annotation, ...]) -> Form:
        rest = tuple(each for each in arguments if each not in (None, NoneType))
        made = tuple(map(self.form, rest))
        form = made[0] if len(made) == 1 else forms.Union(made, convert=self._convert)
        if self._convert and len(made) > 1 and not form.lowers:
            # What is of one of the types is not made to be of another.
            strict = forms.Union(tuple(map(Compiler().form, rest)))
            form = forms.Union((strict, form), convert=True)
        return form if len(rest) == len(arguments) else forms.Optional(form)

    def _literal(self, values: tuple[Annotation, ...]) -> Form:
        plain = [value for value in values if type(value) in _BUILTINS]
        kinds = {type(value) for value in values} - set(_BUILTINS)
        made: list[Form] = [
            forms.Member(kind, [value for value in values if type(value) is kind])
            for kind in sorted(kinds, key=lambda kind: kind.__qualname__)
        ]
        if plain:
            made.append(forms.Literal(plain))
        return made[0] if len(made) == 1 else forms.Union(tuple(made))

    def _class(  # noqa: C901, PLR0911 - a table
        self, annotation: Annotation, origin: type, arguments: tuple[Annotation, ...]
    ) -> Form:
        is_container = origin in (dict, *forms.ITEMS)
        if is_container or origin.__module__ == "collections.abc":
            return self._container(annotation, origin, arguments)
        open_file = _open_file(origin, arguments)
        if open_file is not None:
            return open_file
        if arguments:
            raise Unsupported
        if (origin.__module__, origin.__name__) in _DESCRIPTORS:
            return forms.Of(origin.__name__, origin)
        if origin is NoneType:
            return forms.Of("None", NoneType)
        if origin in _BUILTINS or writer_of(origin) is not None:
            return self._scalar(forms.Of(origin.__name__, origin), origin)
        if origin is float:
            return self._scalar(self._number(float, int), float)
        if origin is complex:
            return self._scalar(self._number(complex, int, float), complex)
        if origin.__name__ in ("Path", "PurePath") and (
            origin.__module__.partition(".")[0] == "pathlib"
        ):
            return self._path(origin)
        if hasattr(origin, "__members__"):
            return forms.Member(origin)
        return self._record(origin)

    def _number(self, kind: type, *also: type) -> Form:
        if self._result:  # an integer that was returned is one that is returned
            return forms.Of(kind.__name__, kind, *also)
        return forms.Number(kind, *also)

    def _scalar(self, form: Form, kind: type) -> Form:
        if not self._convert:
            return form
        return forms.Converted(form, lambda value: _convert(value, kind))

    def _path(self, kind: type) -> Form:
        """Return the form of Path, or of PurePath: what both are is found here."""
        import pathlib  # noqa: PLC0415 - it is loaded: `kind` is of it

        form = forms.Of("Path", pathlib.PosixPath)
        if kind is pathlib.PurePath:
            form = forms.Of("PurePath", pathlib.PosixPath, pathlib.PurePosixPath)
        return self._scalar(form, kind)

    def _container(
        self, annotation: Annotation, origin: type, arguments: tuple[Annotation, ...]
    ) -> Form:
        made = tuple(self.form(each) for each in arguments if each is not ...)
        said = [form.expected for form in made] + ["..."] * (... in arguments)
        expected = origin.__name__ + (f"[{', '.join(said)}]" if said else "")
        if origin is dict or origin.__name__ in ("Mapping", "MutableMapping"):
            return forms.Dict(expected, *(made or (Form(), Form())))
        if origin is tuple and annotation is not tuple and ... not in arguments:
            return forms.Tuple(expected, made, convert=self._convert)
        kinds = _CONTAINERS.get(origin.__name__, (origin,))
        if kinds[0] not in forms.ITEMS:
            raise Unsupported
        item = made[0] if made else Form()
        if item.lowers and len(kinds) > 1:
            of_one_kind = [
                forms.Items(expected, (kind,), item, convert=False) for kind in kinds
            ]
            return forms.Union(tuple(of_one_kind))
        return forms.Items(expected, kinds, item, convert=self._convert)

    def _record(self, kind: type) -> Form:
        if kind in self._records:
            return self._records[kind]
        import typing  # noqa: PLC0415 - few annotations name a class with fields

        typed = typing.is_typeddict(kind)
        names = _fields_of(kind)
        if names is None and not typed:
            raise Unsupported
        record = self._records[kind] = (
            forms.TypedDict(kind) if typed else forms.Record(kind)
        )
        hints = typing.get_type_hints(kind, include_extras=True)
        required: set[str] = set(getattr(kind, "__required_keys__", ()))
        fields: dict[str, Form] = {}
        for name in hints if names is None else names:
            annotation = hints[name]
            while typed and (wrapper := _wrapper_of(annotation)):
                if wrapper == "Required":
                    required.add(name)
                elif wrapper == "NotRequired":
                    required.discard(name)
                (annotation,) = arguments_of(annotation)
            fields[name] = self.form(annotation)
        record.fields, record.required = fields, frozenset(required)
        if typed:
            record.lowers = any(each.lowers for each in fields.values())
        return record

    def _alias(self, annotation: Annotation) -> Form:
        """Return the form of what stands for another annotation."""
        for name in ("__supertype__", "__value__"):  # of NewType, of ``type X = ...``
            if hasattr(annotation, name):
                return self.form(getattr(annotation, name))
        import typing  # noqa: PLC0415 - it is loaded: no class is left

        if isinstance(annotation, typing.TypeVar):
            if annotation.__constraints__:
                return self._union(annotation.__constraints__)
            return self.form(annotation.__bound__ or object)
        if annotation is typing.LiteralString:
            return forms.Of("str", str)
        if isinstance(annotation, (typing.ParamSpecArgs, typing.ParamSpecKwargs)):
            return Form()
        raise Unsupported


def _open_file(origin: type, arguments: tuple[Annotation, ...]) -> Form | None:
    """Return the form of open files, if `origin` stands for such."""
    for name, kinds in _OPEN_FILES_OF_TYPING.items():
        if origin is loaded.of("typing", name):
            if arguments == (str,):
                return forms.Of("TextIO", *_TEXT)
            if arguments == (bytes,):
                return forms.Of("BinaryIO", *_BINARY)
            return forms.Of(name, *kinds)
    if origin not in _OPEN_FILES:
        return None
    return forms.Of(origin.__name__, *_OPEN_FILES[origin])


def _wrapper_of(annotation: Annotation) -> str | None:
    """Return what `typing` has around the annotation of a key of a TypedDict."""
    origin = origin_of(annotation)
    found = (name for name in _WRAPPERS if origin is loaded.of("typing", name))
    return next(found, None)


def _fields_of(kind: type) -> list[str] | None:
    """Return the fields of a dataclass, a msgspec.Struct or a NamedTuple."""
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses  # noqa: PLC0415 - it is loaded: there is a dataclass

        return [field.name for field in dataclasses.fields(kind) if field.init]
    for names in ("__struct_fields__", "_fields"):
        if isinstance(getattr(kind, names, None), tuple):
            return list(getattr(kind, names))
    return None


def _convert(value: object, kind: type) -> object:
    """Return `value` as one of `kind`: text as its type reads it, integral floats."""
    if type(value) is str:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return getattr(kind, "fromisoformat", kind)(value)
    if isinstance(value, float) and kind is int and value.is_integer():
        return int(value)
    if type(value) is int and kind.__name__ == "Decimal":
        return kind(value)
    raise TypeError
