"""The evaluator of proxy auto-configuration files: what sites write, and what nobody should."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_client.download_discover import translate
from cvmfs_client.download_pac import PacError, find_proxy
from cvmfs_client.download_pacrun import pac_functions
from cvmfs_client.download_url import TransferError

URL = "http://stratum1.example.org/cvmfs/sw.example.org/.cvmfspublished"
HOST = "stratum1.example.org"
NOW = datetime.datetime(2026, 11, 18, 14, 30, 0)  # a Wednesday


def resolve(host: str) -> list[str]:
    known = {HOST: ["198.51.100.7"], "proxy": ["10.1.2.3"], "v6": ["2001:db8::1"]}
    if host in known:
        return known[host]
    if host.replace(".", "").isdigit():
        return [host]
    raise TransferError("unknown", "resolve")


def run(text: str) -> str:
    return find_proxy(text, URL, HOST, pac_functions(resolve, now=NOW))


def value(expression: str) -> str:
    return run(f"function FindProxyForURL(url, host) {{ return '' + ({expression}); }}")


def test_what_a_site_serves() -> None:
    text = """
    // the site's proxies
    var proxies = new_list();
    function new_list() { return "PROXY a.example.org:3128; PROXY b.example.org:3128"; }
    /* only for
       the file system */
    function FindProxyForURL(url, host)
    {
        if (isPlainHostName(host) || dnsDomainIs(host, ".local")) { return "DIRECT"; }
        else if (shExpMatch(url, "*/cvmfs/*") && !isInNet(host, "10.0.0.0", "255.0.0.0"))
            return proxies + "; DIRECT"
        var i, list = ["x", "y"];
        for (i = 0; i < list.length; i++) if (list[i] == host) return "PROXY " + list[i];
        return "DIRECT";
    }
    """
    assert run(text) == "PROXY a.example.org:3128; PROXY b.example.org:3128; DIRECT"
    assert translate(run(text)) == "a.example.org:3128;b.example.org:3128;DIRECT"
    assert translate("SOCKS5 x:1; PROXY  y:2 ;DIRECT; nonsense;PROXY") == "y:2;DIRECT"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("'a' + 1 + 2", "a12"),
        ("1 + 2 + 'a'", "3a"),
        ("-'3' + +'4'", "1"),
        ("1 < 2 && 'b' > 'a' && !(2 <= 1)", "true"),
        ("1 == '1' && 1 !== '1' && null == null", "true"),
        ("false || 'x'", "x"),
        ("0 && nothing()", "0"),
        ("true ? 'y' : 'n'", "y"),
        ("0x1F", "31"),
        ("'\\x41\\u0042\\n'.length", "3"),
        ("host.substring(0, 8).toUpperCase()", "STRATUM1"),
        ("host.substring(8, 0)", "stratum1"),
        ("host.substr(-3) + host.slice(-3) + host.substr(0, 2)", "orgorgst"),
        ("host.indexOf('example') + host.lastIndexOf('.') + host.indexOf('none')", "24"),
        ("host.split('.').length + host.split('.')[0]", "3stratum1"),
        ("host.charAt(1) + host[0] + host.charAt(99)", "ts"),
        ("host.startsWith('s') + '' + host.endsWith('org') + host.includes('x')", "truetruetrue"),
        ("['a', 'b'].join('-') + ['a', 'b'].indexOf('b')", "a-b1"),
        ("dnsDomainLevels(host)", "2"),
        ("dnsDomainIs(host, '.example.org')", "true"),
        ("localHostOrDomainIs('stratum1', host) + '' + localHostOrDomainIs('other', host)", "truefalse"),
        ("isResolvable(host) + '' + isResolvable('nowhere')", "truefalse"),
        ("dnsResolve(host) + dnsResolve('nowhere')", "198.51.100.7null"),
        ("isInNet(host, '198.51.100.0', '255.255.255.0')", "true"),
        ("isInNet('nowhere', '0.0.0.0', '0.0.0.0')", "false"),
        ("isInNet(host, 'nonsense', '255.0.0.0')", "false"),
        ("isInNetEx('v6', '2001:db8::/32')", "true"),
        ("shExpMatch(host, 'strat*.ex?mple.org')", "true"),
        ("shExpMatch(host, '*.com')", "false"),
        ("weekdayRange('MON', 'FRI') + '' + weekdayRange('SAT', 'SUN')", "truefalse"),
        ("weekdayRange('WED') + '' + weekdayRange('FRI', 'MON')", "truefalse"),
        ("timeRange(8, 18) + '' + timeRange(22, 6) + timeRange(14)", "truefalsetrue"),
        ("timeRange(14, 0, 14, 29) + '' + timeRange(14, 29, 59, 14, 30, 1)", "falsetrue"),
        ("dateRange('NOV') + '' + dateRange('DEC', 'FEB')", "truefalse"),
        ("dateRange(18) + '' + dateRange(2027)", "truefalse"),
        ("dateRange(1, 'NOV', 20, 'NOV') + '' + dateRange(1, 'JAN', 2026, 1, 'FEB', 2026)", "truefalse"),
        ("alert('x')", "null"),
    ],
)  # fmt: skip
def test_expressions(expression: str, expected: str) -> None:
    assert value(expression) == expected


def test_statements() -> None:
    assert run(
        "function f(n) { if (n <= 1) return 1; return n * f(n - 1); }\n"
        "function FindProxyForURL(url, host) { var s = '', i = 0; while (true) { i++; if (i == 2) continue;"
        " if (i > 4) break; s += i; } return s + f(5); }"
    ) == "134120"  # fmt: skip
    assert run("function FindProxyForURL(a, b) { x = 'glob'; { var y = x + 'al' } ; return y }") == "global"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no function FindProxyForURL"),
        ("function FindProxyForURL(u, h) { return }", "does not give a text"),
        ("function FindProxyForURL(u, h) { while (1) ; }", "runs for too long"),
        ("function FindProxyForURL(u, h) { var s = 'x'; while (1) s = s + s; }", "too long"),
        ("function FindProxyForURL(u, h) { return FindProxyForURL(u, h) }", "calls itself"),
        ("function FindProxyForURL(u, h) { return /x/.test(h) }", "line 1"),
        ("function FindProxyForURL(u, h) {\n\n return eval('1') }", "line 3.*no function eval"),
        ("function FindProxyForURL(u, h) {\n return missing }", "line 2: missing is not defined"),
        ("function FindProxyForURL(u, h) { try { } catch (e) { } }", "'try' is not supported"),
        ("function FindProxyForURL(u, h) { return h.constructor('x') }", "constructor.. is not supported"),
        ("function FindProxyForURL(u, h) { return h.__class__ }", "__class__ is not supported"),
        ("function FindProxyForURL(u, h) { return " + "(" * 500 + "1" + ")" * 500 + " }", "too deep"),
        ("function FindProxyForURL(u, h) { return " + "!" * 500 + "1 }", "too deep"),
        ("function FindProxyForURL(u, h) { return 'a", "cannot read"),
        ("function FindProxyForURL(u, h) { return shExpMatch(h, '*a*a*a*a*a*a*a*a*a*a*a*b') }", "ten stars"),
        ("return 'DIRECT'", "outside of functions"),
        ("function FindProxyForURL(u, h) { return isInNet(h) }", "wrong arguments"),
        ("x" * (2 << 20), "too large"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(PacError, match=message):
        run(text)


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    try:
        run(text)
    except PacError:
        pass


WORDS = (
    "function FindProxyForURL ( ) { } return if else for while var x y url host ; , + - * / == != && || ! ? "
    ": = 'a' 1 0x2 [ ] . length indexOf isInNet shExpMatch break continue true null"
)
PIECES = st.sampled_from(WORDS.split(" "))


@given(st.lists(PIECES, max_size=60))
def test_any_tokens(pieces: list[str]) -> None:
    try:
        run("function FindProxyForURL(url, host) { " + " ".join(pieces) + " }")
    except PacError:
        pass
