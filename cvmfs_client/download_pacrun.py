"""Runs what download_pac parses, with limits, and gives it the functions that PAC files may call."""

from __future__ import annotations

import datetime
import fnmatch
import ipaddress
import math
import re
import socket
from collections.abc import Mapping
from typing import Any, Callable, Optional

from .download_pac import Native, PacError, Syntax, Value
from .download_url import TransferError


class _BreakLoop(Exception):
    pass


class _NextRound(Exception):
    pass


class _Return(Exception):
    def __init__(self, value: Value) -> None:
        self.value = value


class _Function:
    def __init__(self, parameters: list[str], body: list[Syntax]) -> None:
        self.parameters = parameters
        self.body = body


class Machine:
    """One evaluation. Variables are global, or belong to a function's call."""

    def __init__(self, functions: Mapping[str, Native], *, steps: int, depth: int, length: int) -> None:
        self._native = functions
        self._functions: dict[str, _Function] = {}
        self._globals: dict[str, Value] = {}
        self._scopes: list[dict[str, Value]] = []
        self._steps = steps
        self._depth = depth
        self._length = length

    def load(self, program: list[Syntax]) -> None:
        """Declares functions and runs what is outside of them."""
        self._declare(program)
        try:
            self._block(program)
        except (_Return, _BreakLoop, _NextRound):
            raise PacError("a jump outside of functions") from None

    def call(self, name: str, arguments: list[Value]) -> Value:
        function = self._functions.get(name)
        if function is None:
            native = self._native.get(name)
            if native is None:
                raise PacError(f"there is no function {name}")
            try:
                return native(*arguments)
            except TypeError as error:
                raise PacError(f"{name} is called with wrong arguments") from error
        if len(self._scopes) >= self._depth:
            raise PacError(f"{name} calls itself too often")
        padded = arguments + [None] * len(function.parameters)
        self._scopes.append(dict(zip(function.parameters, padded)))
        try:
            self._block(function.body)
        except _Return as result:
            return result.value
        except (_BreakLoop, _NextRound):
            raise PacError("a jump outside of a loop") from None
        finally:
            self._scopes.pop()
        return None

    def _declare(self, statements: list[Syntax]) -> None:
        for node in statements:
            if node[0] == "function":
                self._functions[node[2]] = _Function(node[3], node[4])

    def _tick(self, line: int) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise PacError(f"line {line}: the file runs for too long")

    def _block(self, statements: list[Syntax]) -> None:
        self._declare(statements)
        for node in statements:
            self._execute(node)

    def _execute(self, node: Syntax) -> None:
        kind, line = node[0], node[1]
        self._tick(line)
        if kind == "block":
            self._block(node[2])
        elif kind == "expression":
            self._value(node[2])
        elif kind == "var":
            for name, value in node[2]:
                scope = self._scopes[-1] if self._scopes else self._globals
                if value is not None or name not in scope:
                    scope[name] = self._value(value) if value is not None else None
        elif kind == "if":
            if _truth(self._value(node[2])):
                self._execute(node[3])
            elif node[4] is not None:
                self._execute(node[4])
        elif kind == "return":
            raise _Return(self._value(node[2]) if node[2] is not None else None)
        elif kind == "for":
            self._loop(node)
        elif kind == "break":
            raise _BreakLoop
        elif kind == "continue":
            raise _NextRound

    def _loop(self, node: Syntax) -> None:
        _, line, start, test, step, body = node
        if start is not None:
            self._execute(start)
        while test is None or _truth(self._value(test)):
            self._tick(line)
            try:
                self._execute(body)
            except _BreakLoop:
                return
            except _NextRound:
                pass
            if step is not None:
                self._value(step)

    def _value(self, node: Syntax) -> Value:
        kind, line = node[0], node[1]
        self._tick(line)
        if kind == "literal":
            return node[2]  # type: ignore[no-any-return]
        if kind == "name":
            return self._variable(node[2], line)
        if kind == "call":
            return self._call(node)
        if kind == "binary":
            return self._binary(node)
        if kind == "unary":
            value = self._value(node[3])
            return not _truth(value) if node[2] == "!" else _number(value) * (-1 if node[2] == "-" else 1)
        if kind == "choose":
            return self._value(node[3] if _truth(self._value(node[2])) else node[4])
        if kind == "assign":
            value = self._value(node[3])
            scope = self._scopes[-1] if self._scopes and node[2] in self._scopes[-1] else self._globals
            scope[node[2]] = value
            return value
        if kind == "list":
            return [self._value(item) for item in node[2]]
        if kind == "member":
            value = self._value(node[2])
            if node[3] == "length" and isinstance(value, (str, list)):
                return float(len(value))
            raise PacError(f"line {line}: .{node[3]} is not supported")
        if kind == "index":
            return _item(self._value(node[2]), self._value(node[3]))
        raise PacError(f"line {line}: not supported")

    def _variable(self, name: str, line: int) -> Value:
        if self._scopes and name in self._scopes[-1]:
            return self._scopes[-1][name]
        if name in self._globals:
            return self._globals[name]
        raise PacError(f"line {line}: {name} is not defined")

    def _call(self, node: Syntax) -> Value:
        target, line = node[2], node[1]
        arguments = [self._value(item) for item in node[3]]
        try:
            if target[0] == "name":
                return self.call(target[2], arguments)
            if target[0] == "member":
                return self._limited(_method(self._value(target[2]), target[3], arguments), line)
        except PacError as error:
            text = str(error)
            raise PacError(text if text.startswith("line ") else f"line {line}: {text}") from None
        raise PacError(f"line {line}: only functions can be called")

    def _binary(self, node: Syntax) -> Value:
        _, line, operator, first, second = node
        left = self._value(first)
        if operator == "||":
            return left if _truth(left) else self._value(second)
        if operator == "&&":
            return self._value(second) if _truth(left) else left
        right = self._value(second)
        if operator in ("==", "==="):
            return _equal(left, right, strict=operator == "===")
        if operator in ("!=", "!=="):
            return not _equal(left, right, strict=operator == "!==")
        if operator == "+" and (isinstance(left, (str, list)) or isinstance(right, (str, list))):
            return self._limited(_text(left) + _text(right), line)
        if operator in ("<", ">", "<=", ">="):
            return _compare(operator, left, right)
        return _arithmetic(operator, _number(left), _number(right))

    def _limited(self, value: Value, line: int) -> Value:
        if isinstance(value, (str, list)) and len(value) > self._length:
            raise PacError(f"line {line}: a text becomes too long")
        return value


def _truth(value: Value) -> bool:
    return bool(value) if not isinstance(value, list) else True


def _number(value: Value) -> float:
    if isinstance(value, str):
        try:
            return float(value.strip() or "0")
        except ValueError:
            return float("nan")
    return float(value) if isinstance(value, (int, float)) else 0.0


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, list):
        return ",".join(_text(v) for v in value)
    return "null"


def _equal(left: Value, right: Value, *, strict: bool) -> bool:
    if isinstance(left, list) or isinstance(right, list):
        return left is right
    if isinstance(left, str) == isinstance(right, str) or left is None or right is None:
        return left == right
    return not strict and _number(left) == _number(right)


def _compare(operator: str, left: Value, right: Value) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        order = (left > right) - (left < right)
    else:
        a, b = _number(left), _number(right)
        if math.isnan(a) or math.isnan(b):
            return False
        order = (a > b) - (a < b)
    return {"<": order < 0, ">": order > 0, "<=": order <= 0, ">=": order >= 0}[operator]


def _arithmetic(operator: str, left: float, right: float) -> float:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        return float("nan")
    return left / right if operator == "/" else float(left % right)


def _item(value: Value, index: Value) -> Value:
    if isinstance(value, (str, list)):
        number = _number(index)
        if not math.isnan(number) and 0 <= number < len(value):
            return value[int(number)]
        return None
    raise PacError("only texts and lists have items")


def _method(value: Value, name: str, arguments: list[Value]) -> Value:
    texts = [_text(a) for a in arguments]
    first = texts[0] if texts else ""
    if isinstance(value, list):
        if name == "indexOf" and arguments:
            return float(next((i for i, v in enumerate(value) if _equal(v, arguments[0], strict=True)), -1))
        if name == "join":
            return (first if texts else ",").join(_text(v) for v in value)
        if name == "push" and len(value) < 10_000:
            value.extend(arguments)
            return float(len(value))
    elif isinstance(value, str):
        simple: dict[str, Callable[[], Value]] = {
            "toLowerCase": value.lower,
            "toUpperCase": value.upper,
            "toString": lambda: value,
            "trim": value.strip,
            "indexOf": lambda: float(value.find(first)),
            "lastIndexOf": lambda: float(value.rfind(first)),
            "startsWith": lambda: value.startswith(first),
            "endsWith": lambda: value.endswith(first),
            "includes": lambda: first in value,
            "concat": lambda: value + "".join(texts),
            "charAt": lambda: value[_one(arguments)],
            "split": lambda: list(value.split(first)) if first else list(value),
            "replace": lambda: value.replace(first, texts[1], 1) if len(texts) > 1 else value,
        }
        if name in simple:
            return simple[name]()
        if name in ("substring", "slice", "substr"):
            return _part(name, value, arguments)
    raise PacError(f".{name}() is not supported")


def _one(arguments: list[Value]) -> slice:
    index = _number(arguments[0]) if arguments else 0.0
    at = int(index) if not math.isnan(index) and 0 <= index < 1e9 else 1 << 30
    return slice(at, at + 1)


def _part(name: str, value: str, arguments: list[Value]) -> str:
    numbers = [int(n) if not math.isnan(n) and abs(n) < 1e9 else 0 for n in map(_number, arguments)]
    start = numbers[0] if numbers else 0
    if name == "slice":
        return value[start : numbers[1] if len(numbers) > 1 else None]
    if name == "substr":
        start = max(0, start + len(value)) if start < 0 else start
        return value[start : start + max(0, numbers[1]) if len(numbers) > 1 else None]
    end = numbers[1] if len(numbers) > 1 else len(value)
    low, high = sorted((max(0, start), max(0, end)))
    return value[low:high]


_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def pac_functions(
    resolve: Callable[[str], list[str]], *, now: Optional[datetime.datetime] = None
) -> dict[str, Native]:
    """The functions of the PAC convention. ``resolve`` gives a host's addresses or raises TransferError."""

    def first_address(host: Value) -> Optional[str]:
        try:
            return next((a for a in resolve(_text(host)) if ":" not in a), None)
        except TransferError:
            return None

    def is_in_net(host: Value, pattern: Value, mask: Value) -> bool:
        address = first_address(host)
        try:
            network = ipaddress.IPv4Network(f"{_text(pattern)}/{_text(mask)}", strict=False)
            return address is not None and ipaddress.IPv4Address(address) in network
        except ValueError:
            return False

    def is_in_net_ex(host: Value, prefix: Value) -> bool:
        try:
            network = ipaddress.ip_network(_text(prefix), strict=False)
            return any(ipaddress.ip_address(a) in network for a in resolve(_text(host)))
        except (ValueError, TransferError):
            return False

    def my_address(*_: Value) -> str:
        # no packet is sent: the kernel only chooses the way out
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect(("192.0.2.1", 53))
                return str(sock.getsockname()[0])
            except OSError:
                return "127.0.0.1"

    def moment(arguments: tuple[Value, ...]) -> tuple[datetime.datetime, list[Value]]:
        items = list(arguments)
        zone = None
        if items and items[-1] == "GMT":
            items.pop()
            zone = datetime.timezone.utc
        return now or datetime.datetime.now(zone), items

    def weekday_range(*arguments: Value) -> bool:
        when, items = moment(arguments)
        days = [_DAYS.index(_text(d)) for d in items if _text(d) in _DAYS]
        today = (when.weekday() + 1) % 7
        return _between(days[0], today, days[-1]) if days else False

    def time_range(*arguments: Value) -> bool:
        when, items = moment(arguments)
        numbers = [int(_number(i)) for i in items]
        current = (when.hour, when.minute, when.second)
        if len(numbers) == 1:
            return when.hour == numbers[0]
        if len(numbers) not in (2, 4, 6):
            return False
        half = len(numbers) // 2
        return _between(tuple(numbers[:half]), current[:half], tuple(numbers[half:]))

    def date_range(*arguments: Value) -> bool:
        when, items = moment(arguments)
        half = len(items) // 2 or 1
        fields = []
        for item in items:
            month = _text(item)
            number = int(_number(item)) if month not in _MONTHS else 0
            if month in _MONTHS:
                fields.append(("month", _MONTHS.index(month) + 1))
            else:
                fields.append(("year" if number > 31 else "day", number))
        order = ("year", "month", "day")
        start = tuple(v for k in order for n, v in fields[:half] if n == k)
        end = tuple(v for k in order for n, v in fields[-half:] if n == k)
        kinds = [k for k in order if any(n == k for n, _ in fields[:half])]
        return _between(start, tuple(getattr(when, k) for k in kinds), end) if kinds else False

    return {
        "isPlainHostName": lambda host: "." not in _text(host),
        "dnsDomainIs": lambda host, domain: _text(host).lower().endswith(_text(domain).lower()),
        "localHostOrDomainIs": lambda host, full: (
            _text(host) == _text(full)
            or ("." not in _text(host) and _text(full).startswith(_text(host) + "."))
        ),
        "isResolvable": lambda host: first_address(host) is not None,
        "dnsResolve": first_address,
        "isInNet": is_in_net,
        "isInNetEx": is_in_net_ex,
        "myIpAddress": my_address,
        "myIpAddressEx": my_address,
        "dnsDomainLevels": lambda host: float(_text(host).count(".")),
        "shExpMatch": lambda text, pattern: _shell_match(_text(text), _text(pattern)),
        "weekdayRange": weekday_range,
        "timeRange": time_range,
        "dateRange": date_range,
        "alert": lambda *_: None,
    }


def _between(low: Any, value: Any, high: Any) -> bool:
    return bool(low <= value <= high if low <= high else value >= low or value <= high)


def _shell_match(text: str, pattern: str) -> bool:
    """`*`, `?` and brackets; runs of stars are one, so that matching stays quick."""
    if len(text) > 10_000 or len(pattern) > 1_000:
        return False
    pattern = re.sub(r"\*+", "*", pattern)
    if pattern.count("*") > 10:
        raise PacError("a pattern with more than ten stars")
    return fnmatch.fnmatchcase(text, pattern)
