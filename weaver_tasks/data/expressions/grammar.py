"""The allowed syntax of expressions: an allow-list, checked on the syntax tree before anything is computed.

Expressions come from YAML files that people share. They may compute anything on arrays, but must not do anything else:
no files, no imports, no attributes that give access to the interpreter. Uses the standard library only.
"""

from __future__ import annotations

import ast

from weaver_tasks.base.errors import DataConfigError, did_you_mean


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODULES = {"math": "math", "np": "np", "numpy": "np", "ak": "ak", "awkward": "ak"}

_MATH = _names("""acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees dist e erf erfc exp expm1
fabs factorial floor fmod fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt ldexp lgamma log log10 log1p log2 nan
pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc""")

_NUMPY = _names("""abs absolute add all allclose amax amin angle any append arange arccos arccosh arcsin arcsinh arctan
arctan2 arctanh argmax argmin argsort argwhere around array array_equal array_split asarray ascontiguousarray astype
atleast_1d atleast_2d average bincount bitwise_and bitwise_not bitwise_or bitwise_xor bool bool_ broadcast_to cbrt ceil clip
column_stack compress concatenate conj conjugate convolve copy copysign corrcoef cos cosh count_nonzero cov cross cumprod
cumsum deg2rad degrees delete diag diagonal diff digitize divide dot double dstack e einsum equal exp exp2 expand_dims expm1
extract eye fabs fix flatnonzero flip fliplr flipud float16 float32 float64 float_power floor floor_divide fmax fmin fmod
full full_like geomspace gradient greater greater_equal heaviside histogram histogram2d hstack hypot identity imag inf inner
insert int16 int32 int64 int8 int_ interp intersect1d intp invert isclose isfinite isin isinf isnan isneginf isposinf isreal
ix_ kron ldexp left_shift less less_equal lexsort linspace log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not
logical_or logical_xor logspace longlong matmul max maximum mean median meshgrid min minimum mod moveaxis multiply nan
nan_to_num nanargmax nanargmin nancumsum nanmax nanmean nanmedian nanmin nanpercentile nanprod nanquantile nanstd nansum
nanvar ndim negative newaxis nextafter nonzero not_equal ones ones_like outer percentile pi polyval positive power prod ptp
quantile rad2deg radians ravel real reciprocal remainder repeat reshape right_shift rint roll rot90 round searchsorted
select setdiff1d shape sign signbit sin sinc sinh size sort split sqrt square squeeze stack std subtract sum swapaxes take
take_along_axis tan tanh tensordot tile trace transpose tri tril triu true_divide trunc uint uint16 uint32 uint64 uint8
union1d unique unravel_index unwrap var vdot vstack where zeros zeros_like linalg.det linalg.eigvalsh linalg.inv linalg.norm
linalg.solve""")

RANDOM = _names("""np.random.binomial np.random.choice np.random.exponential np.random.gamma np.random.normal np.random.permutation
np.random.poisson np.random.rand np.random.randint np.random.randn np.random.random np.random.random_sample
np.random.standard_normal np.random.uniform""")

_AWKWARD = _names("""Array Record all almost_equal angle any argcartesian argcombinations argmax argmin argsort array_equal
broadcast_arrays broadcast_fields cartesian combinations concatenate copy corr count count_nonzero covar drop_none
enforce_type fields fill_none firsts flatten from_iter from_numpy from_regular full_like imag is_none is_tuple is_valid
isclose linear_fit local_index mask max mean merge_option_of_records merge_union_of_records min moment nan_to_none
nan_to_num nanargmax nanargmin nanmax nanmean nanmin nanprod nanstd nansum nanvar num ones_like pad_none prod ptp ravel real
round run_lengths singletons softmax sort std strings_astype sum to_list to_numpy to_packed to_regular unflatten unzip
values_astype var where with_field with_name without_field without_parameters zeros_like zip""")

FUNCTIONS = RANDOM.union(
    (f"math.{name}" for name in _MATH),
    (f"np.{name}" for name in _NUMPY),
    (f"ak.{name}" for name in _AWKWARD),
)

RANDOM_HELPERS = frozenset({"_batch_permute_indices", "_batch_permute_and_drop_indices"})
HELPERS = _names(
    "_hash _concat _stack _pad _repeat_pad _clip _knn _batch_knn _batch_argsort _batch_gather "
    "_p4_from_pxpypze _p4_from_ptetaphie _p4_from_ptetaphim _batch_permute_indices _batch_permute_and_drop_indices"
)

# Functions of numexpr, which older data configurations use without a module prefix in selections.
ELEMENTWISE = _names("abs arccos arcsin arctan arctan2 ceil cos cosh exp expm1 floor log log10 log1p sin sinh sqrt tan tanh where")

BUILT_IN = FUNCTIONS | HELPERS | ELEMENTWISE | {"len"}

# Public read-only attributes of numpy and awkward arrays, and of vector's records.
PROPERTIES = _names(
    """T real imag shape size ndim dtype fields
    px py pz pt pt2 x y z t rho rho2 phi eta theta costheta cottheta E e e2 E2 energy energy2 Et et Et2 et2 transverse_energy
    transverse_energy2 m M m2 M2 mass mass2 mt Mt mt2 Mt2 transverse_mass transverse_mass2 tau tau2 p p2 mag mag2 rapidity beta
    gamma"""
)
METHODS = _names(
    """all any argmax argmin argsort astype clip conj copy cumprod cumsum dot flatten max mean min nonzero prod ravel repeat
    reshape round searchsorted squeeze std sum swapaxes take tolist to_list to_numpy transpose var
    add subtract boost boost_p4 boostX boostY boostZ boostCM_of_p4 cross deltaR deltaR2 deltaRapidityPhi deltaangle deltaeta
    deltaphi is_lightlike is_spacelike is_timelike rotateX rotateY rotateZ scale to_Vector2D to_Vector3D to_Vector4D to_beta3
    to_pxpypzenergy to_ptphietaenergy to_ptphietamass unit"""
)

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Constant,
    ast.List, ast.Tuple, ast.Dict, ast.keyword, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context,
)  # fmt: skip

_HINTS: dict[type[ast.AST], str] = {
    ast.BoolOp: "`and` and `or` do not work on arrays. Write & and |, with each comparison in parentheses.",
    ast.Not: "`not` does not work on arrays. Write ~(…).",
    ast.IfExp: "`a if c else b` does not work on arrays. Write np.where(c, a, b).",
    ast.In: "`in` does not work on arrays. Write np.isin(…) or comparisons joined by |.",
    ast.NotIn: "`not in` does not work on arrays. Write ~np.isin(…).",
    ast.Is: "`is` does not work on arrays. Write ==.",
    ast.IsNot: "`is not` does not work on arrays. Write !=.",
    ast.Lambda: "lambdas are not allowed. Put the function into a file and name it in data.custom_functions.",
    ast.JoinedStr: "f-strings are not allowed.",
    ast.NamedExpr: "`:=` is not allowed. Give the intermediate its own name in new_variables.",
    ast.Starred: "`*` before an argument is not allowed.",
}
for _kind in (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp):
    _HINTS[_kind] = "comprehensions are not allowed. Use array functions, or a function of data.custom_functions."

_LONGEST = 20_000
_DEEPEST = 150


def parse(text: str, *, functions: frozenset[str] = frozenset(), where: str) -> ast.expr:
    """Return the syntax tree of an expression, checked against the allow-list.

    text: may span several lines and contain comments. functions: names of the user's functions.
    where: file and key of the expression, for error messages. Raises DataConfigError.
    """
    tree = _syntax(text, where)
    try:
        _check(tree, functions)
    except DataConfigError as error:
        raise DataConfigError(f"{where}: {_shown(text)}: {error}") from None
    return tree


def dotted_name(node: ast.AST) -> str | None:
    """Return for example 'np.linalg.norm' (with the module's short name) if `node` is such a chain of names, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in MODULES:
        return None
    return ".".join([MODULES[node.id], *reversed(parts)])


def _syntax(text: str, where: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise DataConfigError(f"{where}: an expression of {len(text)} characters. Split it up in new_variables.")
    try:
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError:
            if "\n" not in text.strip():
                raise
            # Python needs parentheses around an expression of several lines.
            tree = ast.parse(f"(\n{text}\n)", mode="eval").body
            if tree.lineno == 1:
                raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split()) or "nested too deep"
        raise DataConfigError(f"{where}: {_shown(text)} is not an expression ({problem}). Check its brackets and operators.") from None
    return tree


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return f"'{line}'" if len(line) <= 100 else f"'{line[:97]}…'"


def _check(tree: ast.expr, functions: frozenset[str]) -> None:
    pending: list[tuple[ast.AST, int]] = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > _DEEPEST:
            raise DataConfigError("nested too deep. Split it up in new_variables.")
        kind = type(node)
        if kind in _HINTS:
            raise DataConfigError(_HINTS[kind])
        if not isinstance(node, _NODES):
            raise DataConfigError(f"{kind.__name__} is not allowed in an expression.")
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Attribute):
            if _check_attribute(node):
                continue
        elif isinstance(node, ast.Call):
            children = _check_call(node, functions)
        elif isinstance(node, ast.Name):
            _check_name(node)
        elif isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise DataConfigError("chained comparisons do not work on arrays. Write (a < x) & (x < b).")
        elif isinstance(node, ast.Dict) and None in node.keys:
            raise DataConfigError("`**` is not allowed.")
        pending += [(child, depth + 1) for child in reversed(children)]


def _check_name(node: ast.Name) -> None:
    if node.id in MODULES:
        raise DataConfigError(f"'{node.id}' alone is not a value. Write {node.id}.<function>.")
    if node.id.startswith("__"):
        raise DataConfigError(f"the name '{node.id}' is not allowed.")


def _check_attribute(node: ast.Attribute, *, called: bool = False) -> bool:
    """Check an attribute. Returns whether it is a function or constant of a module, which has no children to check."""
    name = dotted_name(node)
    if name is not None:
        if name not in FUNCTIONS:
            bare = f"{name.partition('.')[0]}.{name.rpartition('.')[2]}"
            hint = f" Did you mean: {bare}?" if bare in FUNCTIONS else did_you_mean(name, FUNCTIONS)
            raise DataConfigError(f"{name} is not among the functions that an expression may use.{hint}")
        return True
    if node.attr.startswith("_"):
        raise DataConfigError(f"the attribute '{node.attr}' is not allowed.")
    if called and node.attr not in METHODS:
        raise DataConfigError(f"the method '{node.attr}' is not among those that an expression may call.{did_you_mean(node.attr, METHODS)}")
    return False


def _check_call(node: ast.Call, functions: frozenset[str]) -> list[ast.AST]:
    """Check the called function. Returns the nodes that remain to be checked."""
    rest: list[ast.AST] = [*node.args, *(keyword.value for keyword in node.keywords)]
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg.startswith("_") or keyword.arg == "out":
            raise DataConfigError(f"the argument '{keyword.arg or '**'}' is not allowed.")
    if isinstance(node.func, ast.Name):
        known = HELPERS | ELEMENTWISE | functions | {"len"}
        if node.func.id not in known:
            raise DataConfigError(f"there is no function '{node.func.id}'.{_function_hint(node.func.id, known)}")
        return rest
    if isinstance(node.func, ast.Attribute):
        return rest if _check_attribute(node.func, called=True) else [*rest, node.func.value]
    raise DataConfigError("only functions and methods can be called.")


def _function_hint(name: str, known: frozenset[str]) -> str:
    for module in ("np", "ak"):
        if f"{module}.{name}" in FUNCTIONS:
            return f" Did you mean: {module}.{name}?"
    return did_you_mean(name, known) or " A function of your own goes into the file named by data.custom_functions."
