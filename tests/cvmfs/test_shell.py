"""The evaluator of configuration files, with the machine's own sh as the judge."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfs_client.errors import ConfigError
from cvmfs_client.shell import Shell
from cvmfs_client.shell_words import evaluate_arithmetic

START = {"A": "one", "B": "two words", "EMPTY": "", "N": "7", "P": "dir/file.tar.gz"}
WATCHED = ("A", "B", "EMPTY", "N", "P", "X", "Y", "Z")


def evaluate(text: str, folder: Path, variables: dict[str, str] = START) -> dict[str, str | None]:
    place = folder / "test.conf"
    place.write_text(text)
    shell = Shell(variables)
    shell.run_file(str(place))
    return {name: shell.variables.get(name) for name in WATCHED}


def by_sh(text: str, folder: Path) -> dict[str, str | None]:
    """What /bin/sh makes of it."""
    place = folder / "sh.conf"
    place.write_text(text)
    report = "".join(f'printf "%s\\0%s\\0" "${{{n}+set}}" "${n}"\n' for n in WATCHED)
    script = f"cd {folder}; . ./sh.conf >/dev/null\n{report}"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={**START, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=20,
    )
    words = done.stdout.decode().split("\0")
    return {n: (words[2 * i + 1] if words[2 * i] else None) for i, n in enumerate(WATCHED)}


SCRIPTS = [
    'X=1\nY=\'single $A\'\nZ="double $A \\$A \\" \\x"\n',
    "X=a\\ b Y=c\\\nd\n",
    "X=$A$B Y=${A}s Z=${B}${EMPTY}\n",
    "X=${A:-d} Y=${EMPTY:-d e} Z=${NOPE:-$A}\n",
    "X=${A-d} Y=${EMPTY-d} Z=${NOPE-d}\n",
    "X=${A:+alt} Y=${EMPTY:+alt} Z=${NOPE+alt}\n",
    "X=${NOPE:=new} Y=$NOPE Z=${NOPE}\n",
    "X=${#A} Y=${#EMPTY}\n",
    "X=${P%.*} Y=${P%%.*} Z=${P#*/}\n",
    'X=${P##*/} Y=${P%nothing} Z="${P#d?r}"\n',
    "X=${A:-'single'} Y=${NOPE:-'si ngle'} Z=\"${NOPE:-'kept'}\"\n",
    "X=$((1 + 2 * 3)) Y=$(( (N - 2) / 2 % 2 )) Z=$((-7 / 2))\n",
    "X=$((N > 3 && N < 8)) Y=$((N == 7 || 0)) Z=$((!N))\n",
    "# comment\nX=a#b # comment\nY='#'\n",
    'if [ "$A" = one ]; then X=1; else X=2; fi\n',
    'if [ -z "$EMPTY" ] && [ -n "$A" ]\nthen\n  X=1\nfi\n',
    "if [ ! -f /nope ]; then X=1; elif true; then X=2; fi\n",
    "if [ $N -lt 10 ]; then X=1\nelif [ $N -lt 20 ]; then X=2\nelse X=3\nfi\n",
    "if [ -z $NOPE ] || [ $NOPE -lt 5 ]; then X=1; fi\n",
    '[ "$A" = one ] && X=yes || X=no\n',
    '[ "$A" = two ] && X=yes || X=no\n',
    "false || X=1; true && Y=2; ! false && Z=3\n",
    "case $A in one) X=1;; two) X=2;; esac\n",
    'case "$P" in\n  *.zip) X=zip;;\n  *.gz|*.xz)\n    X=other\n    Y=1\n    ;;\n  *) X=none\nesac\n',
    "case $EMPTY in '') X=empty;; *) X=full;; esac\n",
    "case x in [a-m]) X=1;; [!a-m]) X=2;; esac\n",
    "export X=1\nexport Y\nreadonly Z=3\n",
    "{ X=1; Y=2; }\n",
    "unset A\nX=${A-unset}\n",
    ": ${X:=default} ${Y:=two}\n",
    "X=1; . ./inner.conf; Z=$Y\n",
    "X=1\nreturn\nX=2\n",
    'test "$A" != one || X=1\n',
    '[ "$A" = one -a "$N" -eq 7 ] && X=1\n',
    '[ "$A" = two -o -d /tmp ] && X=1\n',
    "if [ -e /bin/sh ] ; then X=1 ; fi > /dev/null 2>&1\n",
    "X='multi\nline' Y=\"two\n$A\"\n",
    "X=\"a\"'b'c$A\n",
    'X=http://server:8000/cvmfs/@fqrn@\\;http://other Y="a|b;DIRECT"\n',
    "X='~' Y=\\~ Z=http://server/~user\n",
    "if true; then if false; then X=1; else X=2; fi; fi\n",
    'X="${A}${NOPE:-"in ner"}"\n',
    'X=$ Y="$ " Z=a$\n',
    "X=a;Y=b;;\n".replace(";;", ";"),
    "A=changed X=$A\n",
    'X="$B" ; set -- a ; echo $X\n',
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_as_sh(text: str, tmp_path: Path) -> None:
    (tmp_path / "inner.conf").write_text("Y=included$X\n")
    expected = by_sh(text, tmp_path)
    found = evaluate(text, tmp_path)
    assert found == expected


WORDS = st.text(alphabet="abc~$\"'\\{}:-=# ANP", max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=WORDS)
def test_arbitrary_values_as_sh_or_refused(text: str, tmp_path: Path) -> None:
    """Either sh would see the same value, or the line is refused; never another value."""
    script = f"X={text}\n"
    try:
        found = evaluate(script, tmp_path)
    except ConfigError:
        return
    try:
        expected = by_sh(script, tmp_path)
    except subprocess.CalledProcessError:
        pytest.fail(f"sh refuses {script!r}, we read {found}")
    assert found == expected, script


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\nX=$(hostname)\n", 2, "commands in $( )"),
        ("X=`hostname`\n", 1, "commands in ` `"),
        ("X=1\n\nhostname -f\n", 3, "`hostname`"),
        ("for i in a b; do X=$i; done\n", 1, "`for`"),
        ("f() { X=1; }\n", 1, "functions"),
        ("X=1 | cat\n", 1, "pipes"),
        ("sleep 1 &\n", 1, "`sleep`"),
        ("X=1 &\n", 1, "background"),
        ("if true; then X=1\n", 2, "`fi` is missing"),
        ("X='open\n", 1, "not closed"),
        ('X="open\n', 1, "not closed"),
        ("\n\n. ./none.conf\n", 3, "does not exist"),
        ("X=${A!}\n", 1, "cannot be evaluated"),
        ("X=~/keys\n", 1, "home directory"),
        ("X=a:~\n", 1, "home directory"),
        ("X=$1\n", 1, "$1"),
        ("X=${NOPE:?must be set}\n", 1, "must be set"),
        ("[ a b c d ]\n", 1, "cannot evaluate the test"),
        ("[ $A -lt 3 ]\n", 1, "not a number"),
        ("X=$((1 / 0))\n", 1, "cannot compute"),
        ("X=$((A))\n", 1, "cannot compute"),
        ("echo x > /etc/passwd\n", 1, "not expected"),
        ("rm -rf /\n", 1, "`rm`"),
        ("fi\n", 1, "`fi`"),
        ("while true; do :; done\n", 1, "`while`"),
        ("case a in b\n", 1, "`)` is missing"),
        ("$A\n", 1, "`one`"),
        ("(X=1)\n", 1, "`(`"),
    ],
)
def test_what_cannot_be_evaluated_names_file_and_line(
    text: str, line: int, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate(text, tmp_path)
    assert f"{tmp_path}/test.conf:{line}: " in caught.value.message
    assert reason in caught.value.message


def test_inclusion_that_never_ends(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too deeply"):
        evaluate(". ./test.conf\n", tmp_path)


def test_errors_in_included_files_name_them(tmp_path: Path) -> None:
    (tmp_path / "inner.conf").write_text("\n\nX=$(x)\n")
    with pytest.raises(ConfigError, match=r"inner\.conf:3: "):
        evaluate(". ./inner.conf\n", tmp_path)


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_arbitrary_text_is_evaluated_or_refused(text: str) -> None:
    class Memory:
        def read(self, path: str) -> str | None:
            return text if path == "/x.conf" else None

        def kind(self, path: str) -> str:
            return ""

        def names(self, path: str) -> list[str]:
            return []

    try:
        Shell(START, Memory()).run_file("/x.conf")
    except ConfigError as e:
        assert e.message


EXPRESSIONS = st.recursive(
    st.integers(0, 50).map(str),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "<", "==", "&&", "||"]), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_arithmetic(text: str) -> None:
    python = text.replace("&&", " and ").replace("||", " or ")
    found = evaluate_arithmetic(text, lambda name: 0)
    expected = eval(python)  # noqa: S307 - made of numbers and operators here
    if "&&" in text or "||" in text:
        assert bool(found) == bool(expected) or "(" in text  # Python's and/or give operands
    else:
        assert found == int(expected)
