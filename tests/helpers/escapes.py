"""Texts that a model could write to make a scorer do something else than score."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVALUATING = """
    binary_matrix countdown intermediate_integration n_queens polynomial_multiplication puzzle24 simple_integration
    spiral_matrix string_insertion
""".split()
"""The tasks whose scorers evaluate an answer, in the version of reasoning-gym that was read."""

ANYTHING = "eval(\"type('T', (), {'__eq__': lambda self, other: True})()\")"
"""Evaluated, it equals everything: polynomial_multiplication gives it the full score."""


class Trap:
    """A file that must not be made and a port that must not be called."""

    def __init__(self, folder: Path, server: socket.socket) -> None:
        self.file, self._server = folder / "canary", server
        self.port = server.getsockname()[1]

    @property
    def sprung(self) -> bool:
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return self.file.exists()
        return True


@contextmanager
def trap(folder: Path) -> Iterator[Trap]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield Trap(folder, server)


def harms(trap: Trap) -> list[str]:
    """Python expressions that spring the trap, or end the process that evaluates them, or that one's parent."""
    file = str(trap.file)
    return [
        f"__import__('os').system('touch {file}')",
        f"open('{file}', 'w')",
        f"__import__('subprocess').run(['touch', '{file}'])",
        f"__import__('pathlib').Path('{file}').touch()",
        f"__import__('os').mkdir('{file}')",
        f"__import__('os').symlink('/', '{file}')",
        f"__import__('ctypes').CDLL(None).mkdir(b'{file}', 511)",
        f"__import__('socket').create_connection(('127.0.0.1', {trap.port}), 2)",
        f"__import__('urllib.request').request.urlopen('http://127.0.0.1:{trap.port}', timeout=2)",
        f"__import__('os').posix_spawn('/usr/bin/touch', ['touch', '{file}'], {{}})",
        f"__import__('os').fork() or __import__('os').execv('/usr/bin/touch', ['touch', '{file}'])",
        f"__import__('multiprocessing').Process(target=open, args=('{file}', 'w')).start()",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "__import__('os').killpg(0, 9)",
        "__import__('sys').exit()",
    ]


def escapes(trap: Trap) -> list[str]:
    """The same in the disguises that get past simple checks, where a scorer evaluates them or parses them."""
    harm = f"__import__('os').system('touch {trap.file}')"
    codes = ", ".join(map(str, harm.encode()))
    wide = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(ord("a"), ord("z") + 1)})
    chain = "().__class__.__base__.__subclasses__()"
    return [
        *harms(trap),
        f"eval({harm!r})",
        f"exec({harm!r})",
        f"eval(bytes([{codes}]))",
        f"(lambda: {harm})()",
        f"[{harm} for _ in [0]]",
        f"{{{harm}: 1}}",
        f"24 if {harm} else 24",
        f"f'{{{harm}}}'",
        f"(x := {harm})",
        f"[[{harm}]]",
        f"1 + 2\n{harm}",
        f"1; {harm}",
        f"# \r{harm}",
        f"0 1\n{harm}",
        f"Integral({harm}, x)",
        f"sqrt({harm})",
        f"{harm}!",
        f"getattr(__import__('o' + 's'), 'sys' + 'tem')('touch {trap.file}')",
        f"getattr(getattr(x, '__class__'), 'mro')()[-1].__subclasses__() or {harm}",
        f"[c for c in {chain} if c.__name__ == 'Popen'][0](['touch', '{trap.file}'])",
        f"[c for c in {chain} if 'warn' in c.__name__][0]()._module.__builtins__['open']('{trap.file}', 'w')",
        f"S({harm!r})",
        f"sympify({harm!r})",
        f"x.subs(x, {harm!r})",
        harm.replace("import", "import".translate(wide)).replace("system", "system".translate(wide)),
        f"{'eval'.translate(wide)}({harm!r})",
        f"ᵉval({harm!r})",
        f"'{{0.__class__}}'.format({harm})",
        f"cos\nsystem\n(S'touch {trap.file}'\ntR.",
        f"!!python/object/apply:os.system ['touch {trap.file}']",
        f'{{"py/reduce": [{{"py/function": "os.system"}}, ["touch {trap.file}"]]}}',
        f"$(touch {trap.file})",
        f"`touch {trap.file}`; touch {trap.file}",
        f"\x1b]52;c;\x07\x1b[2J\n{harm}",
    ]


def bombs() -> list[str]:
    """Texts that take time or memory, or are no texts at all."""
    return [
        "9**9**9**9",
        "(9**9)**(9**9)",
        "((9**99)**99)**999",
        "9**(9**(9**9))",
        "2**2**2**2**2**2**2",
        "-9**99999999",
        "factorial(10**8)",
        "99999999!",
        "((9!)!)!",
        "9!!!!",
        "exp(exp(exp(exp(99))))",
        "1e999999999",
        "1/1e-999999999",
        "1E+99999999999999999999",
        "Integral(exp(x**x**x), x)",
        "sin(" * 30 + "x" + ")" * 30,
        "[0] * 10**11",
        "'a' * 10**11",
        "x" + "+x**x" * 400,
        "(" * 900 + ")" * 900,
        "(" * 100_000,
        "-" * 1900 + "1",
        "[" * 100_000,
        "[" * 9_000 + "]" * 9_000,
        '{"a":' * 3_000,
        '{"a":' * 3_000 + "1" + "}" * 3_000,
        "U999999999 R1",
        "A+999999999999999 B-999999999999999",
        "∧".join(chr(0x561 + one) for one in range(30)),
        "→".join(f"p{one}" for one in range(40)),
        "¬" * 5_000 + "p",
        "move(" + ", " * 5_000,
        "Move disk " + "1" * 9_000,
        "9" * 10_000,
        "9×" * 9_000,
        "nan",
        "inf",
        "-0",
        "NaN,NaN,NaN",
        "1,2,3\n" * 3_000,
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]",
        "１２３",
        "٣٤",
        "x²",
        "",
        " ",
        "\0",
        "1\0",
        "\ud800",
        "\ud800\udc00 1",
        "\x1b[31m1\x1b[0m",
        "\u202e1",
        "\r\n",
        "%s%n{0}",
        "x" * 10_000_000,
        "1" * 10_000_000,
        "0" * 10_000_000 + "5",
    ]
