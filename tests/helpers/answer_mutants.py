"""Wrong answers made from right ones: the source of a function with one thing changed, in every place and way."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
COMPARISONS = {
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}


def mutants(source: str) -> list[str]:
    """The different mutants of the only function in a source; whether one is wrong is for others to say."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        node.number = number
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    parameters = [argument.arg for argument in function.args.args]
    found = {}
    for node in ast.walk(function):
        for other in _others(node, parameters):
            changed = ast.fix_missing_locations(_Replaced(node.number, other).visit(copy.deepcopy(tree)))
            found[ast.unparse(changed)] = None
    found.pop(ast.unparse(tree), None)
    return [mutant for mutant in found if _is_program(mutant)]


def without_return(source: str) -> str:
    """Every value that is returned is computed, and forgotten."""
    return ast.unparse(ast.fix_missing_locations(_Forgetful().visit(ast.parse(source))))


class _Forgetful(ast.NodeTransformer):
    """Leaves out the returns of a function, and not those of functions within it."""

    depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.depth += 1
        found = self.generic_visit(node) if self.depth == 1 else node
        self.depth -= 1
        return found

    def visit_Return(self, node: ast.Return) -> ast.AST:
        return ast.Expr(node.value)


class _Replaced(ast.NodeTransformer):
    def __init__(self, number: int, other: ast.AST) -> None:
        self.number, self.other = number, other

    def visit(self, node: ast.AST) -> ast.AST:
        return self.other if getattr(node, "number", None) == self.number else self.generic_visit(node)


def _is_program(source: str) -> bool:
    try:
        compile(source, "<mutant>", "exec")
    except SyntaxError:
        return False
    return True


def _others(node: ast.AST, parameters: list[str]) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            yield from (left, right, ast.BinOp(right, op, left))
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.UnaryOp(operand=operand) | ast.Starred(value=operand):
            yield operand
        case ast.Compare(left=left, ops=[op], comparators=right):
            yield from (ast.Compare(left, [other()], right) for other in COMPARISONS.get(type(op), ()))
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)):
            yield from (ast.Constant(2 * value), ast.Constant(0.0))
        case ast.Return(value=ast.expr() as value):
            yield from (ast.Return(ast.UnaryOp(ast.USub(), value)), ast.Return(ast.BinOp(value, ast.Mult(), value)))
            yield ast.Expr(value)
        case ast.Call(func=function, args=arguments, keywords=keywords):
            for keyword in keywords:
                yield ast.Call(function, arguments, [other for other in keywords if other is not keyword])
            yield from arguments
            if isinstance(function, ast.Attribute):
                yield function.value
            if len(arguments) == 2:
                yield ast.Call(function, arguments[::-1], keywords)
        case ast.Subscript(value=value) | ast.Attribute(value=value, attr="T"):
            yield value
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield from (body, orelse, ast.IfExp(test, orelse, body))
        case ast.If(test=test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Assign() | ast.AugAssign() | ast.Expr():
            yield ast.Pass()
        case ast.comprehension(target=target, iter=iterable, ifs=[_, *_]):
            yield ast.comprehension(target, iterable, [], 0)
        case ast.Tuple(elts=elements, ctx=ast.Load()):
            yield ast.Tuple(elements[::-1], ast.Load())
        case ast.Name(id=name, ctx=ast.Load()) if name in parameters:
            yield from (ast.Name(other, ast.Load()) for other in parameters if other != name)
