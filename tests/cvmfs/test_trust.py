"""Manifests and whitelists: what is accepted, and how each forgery is refused."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfs_client.errors import (
    BlacklistedError,
    ConfigError,
    CvmfsError,
    ExpiredError,
    FormatError,
    NameMismatchError,
    RolledBackError,
    SignatureError,
)
from cvmfs_client.manifest import parse_manifest, verify_manifest
from cvmfs_client.rsa import keys_from_pem, verify_raw
from cvmfs_client.trust import Floor, Trust
from cvmfs_client.whitelist import Authorities, Blacklist, parse_blacklist, parse_fingerprint
from cvmfs_client.x509 import (
    Revocations,
    certificate_from_pem,
    parse_certificate,
    revocations_from_pem,
    verify_chain,
)
from tests.cvmfs import signing
from tests.cvmfs.signing import FQRN, NOW, private_key, public, sign_manifest, sign_whitelist

SIGNER = signing.certificate()


def trust(**more: Any) -> Trust:
    given_ = {"keys": [public(private_key())], "clock": NOW.timestamp, **more}
    return Trust(FQRN, given_.pop("keys"), **given_)


def accept(
    manifest: bytes, whitelist: bytes, cert: bytes | None = None, floor: Floor | None = None, **more: Any
) -> Any:
    rules = trust(**more)
    listed = rules.whitelist(whitelist)
    return rules.manifest(
        rules.parse(manifest, floor or Floor()), listed, signing.pem(SIGNER) if cert is None else cert
    )


def good_whitelist(*names: str, **more: Any) -> bytes:
    return sign_whitelist(signing.whitelist_body(*(names or (signing.fingerprint(SIGNER),)), **more))


GOOD = sign_manifest(signing.manifest_body())


def test_accepted() -> None:
    found = accept(GOOD, good_whitelist())
    assert found.manifest.revision == 5
    assert str(found.manifest.catalog) == "a" * 40
    assert found.manifest.catalog.suffix == "C"
    assert found.manifest.catalog_size == 1000
    assert found.manifest.garbage_collectable and not found.manifest.alternative_paths
    assert found.fingerprint == parse_certificate(signing.der(SIGNER)).fingerprint("sha1")


@pytest.mark.parametrize("algorithm", ["sha1", "rmd160", "shake128"])
def test_every_hash_algorithm(algorithm: str) -> None:
    whitelist = sign_whitelist(
        signing.whitelist_body(signing.fingerprint(SIGNER, algorithm) + " # comment"), algorithm=algorithm
    )
    manifest = sign_manifest(signing.manifest_body("c" * 40 + "-rmd160"), algorithm=algorithm)
    assert str(accept(manifest, whitelist).manifest.catalog) == "c" * 40 + "-rmd160"


def test_any_of_several_master_keys_and_fingerprints() -> None:
    keys = [public(private_key("old")), public(private_key())]
    accept(GOOD, good_whitelist("AA:" * 19 + "AA", "rubbish", signing.fingerprint(SIGNER)), keys=keys)


def test_unknown_letters_are_ignored() -> None:
    accept(sign_manifest(signing.manifest_body(Q="future", Z="x")), good_whitelist())


def test_a_signature_may_hold_the_separator() -> None:
    body = signing.manifest_body()
    data = sign_manifest(body)
    assert parse_manifest(data[:-5] + b"\n--\n-", FQRN).revision == 5


# --- refusals, each with its own class


@pytest.mark.parametrize("letter", ["C", "R", "D", "S"])
def test_missing_lines(letter: str) -> None:
    with pytest.raises(FormatError, match=f"line {letter}"):
        accept(sign_manifest(signing.manifest_body(**{letter: None})), good_whitelist())


@pytest.mark.parametrize(
    "fields",
    [
        {"R": "0" * 32},
        {"S": "-1"},
        {"S": "five"},
        {"T": ""},
        {"X": "zz"},
        {"X": None},
        {"C": "short"},
        {"D": "٣"},
    ],
)
def test_malformed_lines(fields: dict[str, Any]) -> None:
    body = signing.manifest_body(**{k: v for k, v in fields.items() if v is None or v.isascii()})
    if any(v is not None and not v.isascii() for v in fields.values()):
        body = signing.manifest_body().replace(b"D240", "D٣".encode())
    with pytest.raises(FormatError):
        accept(sign_manifest(body), good_whitelist())


def test_two_different_lines_of_one_letter() -> None:
    with pytest.raises(FormatError, match="two different lines"):
        accept(sign_manifest(signing.manifest_body() + b"S6\n"), good_whitelist())


def test_another_repository() -> None:
    with pytest.raises(NameMismatchError, match=re.escape("'other.example.org' instead of sw.example.org")):
        accept(sign_manifest(signing.manifest_body(N="other.example.org")), good_whitelist())
    with pytest.raises(NameMismatchError):
        accept(GOOD, good_whitelist(fqrn="other.example.org"))


def test_changed_after_signing() -> None:
    with pytest.raises(SignatureError, match="changed after it was signed"):
        accept(GOOD.replace(b"S5", b"S6"), good_whitelist())


def test_rehashed_but_not_signed() -> None:
    body = signing.manifest_body(S=6)
    signature = GOOD[-128:]
    forged = sign_manifest(body)[:-128] + signature
    with pytest.raises(SignatureError, match="signature of the manifest"):
        accept(forged, good_whitelist())


def test_signed_by_another_key() -> None:
    with pytest.raises(SignatureError):
        accept(sign_manifest(signing.manifest_body(), key="stranger"), good_whitelist())


def test_certificate_not_on_the_whitelist() -> None:
    stranger = signing.certificate("stranger")
    manifest = sign_manifest(signing.manifest_body(), key="stranger")
    with pytest.raises(SignatureError, match="not on its whitelist"):
        accept(manifest, good_whitelist(), signing.pem(stranger))


def test_whitelist_of_a_stranger() -> None:
    body = signing.whitelist_body(signing.fingerprint(SIGNER))
    with pytest.raises(SignatureError, match="not signed by any of the 1 master keys"):
        accept(GOOD, sign_whitelist(body, key="stranger"))


def test_no_master_key() -> None:
    with pytest.raises(ConfigError, match="no master key"):
        accept(GOOD, good_whitelist(), keys=[])


def test_expired_names_the_date() -> None:
    with pytest.raises(ExpiredError, match="2026-05-31 12:00 UTC"):
        accept(GOOD, good_whitelist(expires=NOW - timedelta(days=1)))
    # minutes do not count
    with pytest.raises(ExpiredError):
        accept(GOOD, good_whitelist(expires=NOW + timedelta(minutes=10)))
    accept(GOOD, good_whitelist(expires=NOW + timedelta(minutes=40)))


def test_a_whitelist_that_expires_while_in_use() -> None:
    now = [NOW.timestamp()]
    rules = trust(clock=lambda: now[0])
    whitelist = rules.whitelist(good_whitelist(expires=NOW + timedelta(hours=2)))
    now[0] += 3 * 3600
    with pytest.raises(SignatureError):
        rules.manifest(rules.parse(GOOD, Floor()), whitelist, signing.pem(SIGNER))


def test_rollback() -> None:
    newer = Floor(1_780_000_001, 6)
    with pytest.raises(RolledBackError, match="older than revision 6"):
        accept(GOOD, good_whitelist(), floor=newer)
    with pytest.raises(RolledBackError):
        accept(GOOD, good_whitelist(), floor=Floor(1_780_000_000, 6))
    accept(GOOD, good_whitelist(), floor=Floor(1_780_000_000, 5))
    # made anew later: the numbers begin again
    accept(GOOD, good_whitelist(), floor=Floor(1_779_999_999, 900))


def test_blacklist() -> None:
    listed = parse_blacklist([f"# site\n{signing.fingerprint(SIGNER)} # leaked\n"])
    with pytest.raises(BlacklistedError, match="certificate"):
        accept(GOOD, good_whitelist(), blacklist=listed)
    with pytest.raises(BlacklistedError, match="revision 5"):
        accept(GOOD, good_whitelist(), blacklist=parse_blacklist([f"<{FQRN} 6\n<other.example.org 1"]))
    accept(GOOD, good_whitelist(), blacklist=parse_blacklist([f"<{FQRN} 5", "< x", "<a b c"]))
    assert parse_blacklist([f"<{FQRN} 5 trailing"]) == Blacklist()


def test_fingerprint_forms() -> None:
    text = "AA:" * 19 + "AB"
    assert str(parse_fingerprint(text)) == "aa" * 19 + "ab"
    assert str(parse_fingerprint(text + "-SHAKE128\t# x")) == "aa" * 19 + "ab-shake128"
    for bad in ("", "#", "AA:BB", text + "-MD5", "Wcachain"):
        assert parse_fingerprint(bad) is None


# --- RSA padding: the whole block counts


@pytest.mark.parametrize(
    "mutate",
    [
        lambda block: b"\0\2" + block[2:],
        lambda block: b"\0\1" + b"\xff" * 8 + b"\0" + block[-40:] + b"\0" * (len(block) - 51),
        lambda block: block[:10] + b"\xfe" + block[11:],
        lambda block: block[:-41] + b"\1" + block[-40:],
        lambda block: b"\0" + block[-40:].rjust(len(block) - 1, b"\0"),
    ],
)
def test_forged_padding(mutate: Any) -> None:
    key = private_key()
    payload = b"f" * 40
    block = signing.type1(payload, 128)
    assert verify_raw(public(key), signing.raw_signature(key, block), payload)
    assert not verify_raw(public(key), signing.raw_signature(key, mutate(block)), payload)


def test_a_number_not_below_the_modulus() -> None:
    key = public(private_key())
    block = signing.type1(b"f" * 40, 128)
    signature = signing.raw_signature(private_key(), block)
    same = (int.from_bytes(signature, "big") + key.n).to_bytes(129, "big")
    assert not verify_raw(key, same, b"f" * 40)
    assert not verify_raw(key, b"\0" + signature, b"f" * 40)
    assert not verify_raw(key, signature[1:], b"f" * 40)


def test_other_digests_than_sha1_are_refused() -> None:
    with pytest.raises(SignatureError):
        accept(sign_manifest(signing.manifest_body(), digest=hashes.SHA256()), good_whitelist())


def test_keys_from_pem() -> None:
    key = private_key()
    for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1):
        text = key.public_key().public_bytes(serialization.Encoding.PEM, form)
        assert keys_from_pem(b"# comment\n" + text * 2) == [public(key)] * 2
    for bad in (
        b"",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n",
        b"-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n",
    ):
        with pytest.raises(FormatError):
            keys_from_pem(bad)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    """Whatever single change is made to manifest, whitelist or certificate, nothing but a CvmfsError comes of
    it, or what is accepted is what was signed."""
    parts = [GOOD, good_whitelist(), signing.pem(SIGNER)]
    which = data.draw(st.integers(0, 2))
    original = parts[which]
    at = data.draw(st.integers(0, len(original) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        parts[which] = (
            original[:at] + bytes((original[at] ^ data.draw(st.integers(1, 255)),)) + original[at + 1 :]
        )
    elif kind == "cut":
        parts[which] = original[:at]
    else:
        parts[which] = original[:at] + data.draw(st.binary(min_size=1, max_size=3)) + original[at:]
    try:
        found = accept(*parts)
    except CvmfsError:
        return
    # only white space and text around the PEM block may differ
    assert which == 2
    assert found.manifest == parse_manifest(GOOD, FQRN)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_arbitrary_bytes(data: bytes) -> None:
    for parse in (
        lambda: accept(data, good_whitelist()),
        lambda: accept(GOOD, data),
        lambda: accept(GOOD, good_whitelist(), data),
    ):
        with pytest.raises(CvmfsError):
            parse()
    with pytest.raises(FormatError):
        parse_certificate(data)


# --- chains and PKCS#7


def authorities(*certs: x509.Certificate, crl: bytes = b"") -> Any:
    anchors = [certificate_from_pem(signing.pem(c)) for c in certs]
    return lambda: Authorities(anchors, revocations_from_pem(crl) if crl else ())


ROOT = signing.certificate("root", ca=True)
MIDDLE = signing.certificate("middle", issuer="root", ca=True)
LEAF = signing.certificate("leaf", issuer="middle", uris=(f"cvmfs:{FQRN}",))


def pkcs7_whitelist(cert: x509.Certificate = LEAF, *others: x509.Certificate, **more: Any) -> Any:
    listed = signing.whitelist_body(signing.fingerprint(SIGNER), **more)
    message = signing.sign_pkcs7(listed, cert, "leaf", *(others or (MIDDLE,)))
    outer = sign_whitelist(signing.whitelist_body(flags="Vpkcs7"), key="nobody")
    return outer, message


def test_pkcs7_whitelist() -> None:
    outer, message = pkcs7_whitelist()
    rules = trust(keys=[], authorities=authorities(ROOT))
    whitelist = rules.whitelist(outer, lambda: message)
    assert whitelist.names(parse_certificate(signing.der(SIGNER)))
    rules.manifest(rules.parse(GOOD, Floor()), whitelist, signing.pem(SIGNER))


def test_pkcs7_refusals() -> None:
    outer, message = pkcs7_whitelist()
    with pytest.raises(SignatureError, match="no trusted CA"):
        trust(authorities=authorities()).whitelist(outer, lambda: message)
    with pytest.raises(SignatureError, match="needs its PKCS#7"):
        trust(authorities=authorities(ROOT)).whitelist(outer)
    other = signing.certificate("leaf", issuer="middle", uris=("cvmfs:other.example.org",))
    outer, message = pkcs7_whitelist(other)
    with pytest.raises(SignatureError, match="not named for"):
        trust(authorities=authorities(ROOT)).whitelist(outer, lambda: message)
    outer, message = pkcs7_whitelist(expires=NOW - timedelta(days=1))
    with pytest.raises(ExpiredError):
        trust(authorities=authorities(ROOT)).whitelist(outer, lambda: message)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_of_pkcs7_passes(at: int, change: int) -> None:
    import base64

    outer, message = PKCS7_SAMPLE
    body = base64.b64decode(b"".join(message.splitlines()[1:-1]))
    at %= len(body)
    changed = body[:at] + bytes((body[at] ^ change,)) + body[at + 1 :]
    text = b"-----BEGIN PKCS7-----\n" + base64.b64encode(changed) + b"\n-----END PKCS7-----\n"
    rules = trust(authorities=authorities(ROOT))
    try:
        found = rules.whitelist(outer, lambda: text)
    except CvmfsError:
        return
    assert found.fingerprints == rules.whitelist(outer, lambda: message).fingerprints


PKCS7_SAMPLE = pkcs7_whitelist()


@pytest.mark.parametrize(
    ("leaf", "middle", "reason"),
    [
        (LEAF, signing.certificate("middle", issuer="root", ca=False), "no trusted CA"),
        (LEAF, signing.certificate("middle", issuer="root", ca=True, days=1), "outside its validity"),
        (signing.certificate("leaf", issuer="middle", days=2), MIDDLE, "outside its validity"),
        (
            signing.certificate(
                "leaf",
                issuer="middle",
                extra=lambda b: b.add_extension(
                    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True
                ),
            ),
            MIDDLE,
            "not understood",
        ),
        (
            signing.certificate("leaf", issuer="middle", key_name="leaf"),
            signing.certificate("middle", issuer="middle", ca=True),
            "no trusted CA",
        ),
    ],
)
def test_broken_chains(leaf: x509.Certificate, middle: x509.Certificate, reason: str) -> None:
    with pytest.raises(SignatureError, match=reason):
        verify_chain(
            parse_certificate(signing.der(leaf)),
            [parse_certificate(signing.der(ROOT))],
            [parse_certificate(signing.der(middle))],
            NOW,
        )


def test_path_length_and_revocation() -> None:
    root = signing.certificate("root", ca=True, path_length=0)
    chain = (parse_certificate(signing.der(LEAF)), [parse_certificate(signing.der(MIDDLE))])
    with pytest.raises(SignatureError):
        verify_chain(chain[0], [parse_certificate(signing.der(root))], chain[1], NOW)
    lists = revocation_list(LEAF.serial_number, NOW)
    anchors = [parse_certificate(signing.der(ROOT))]
    verify_chain(chain[0], anchors, chain[1], NOW)
    with pytest.raises(SignatureError, match="revoked"):
        verify_chain(chain[0], anchors, chain[1], NOW, lists)


def revocation_list(serial: int, day: datetime) -> list[Revocations]:
    """Of the middle CA, valid for a day."""
    revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(day).build()
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(MIDDLE.subject)
        .last_update(day)
        .next_update(day + timedelta(days=1))
        .add_revoked_certificate(revoked)
        .sign(private_key("middle"), hashes.SHA256())
    )
    return revocations_from_pem(made.public_bytes(serialization.Encoding.PEM))


def test_revocation_lists_expire() -> None:
    """As for the official client: a list that is out of date is no proof. What it revokes stays revoked."""
    leaf, middle = (parse_certificate(signing.der(c)) for c in (LEAF, MIDDLE))
    anchors = [parse_certificate(signing.der(ROOT))]
    past = NOW - timedelta(days=30)
    verify_chain(leaf, anchors, [middle], NOW, revocation_list(12345, NOW))
    with pytest.raises(SignatureError, match="revocation list of a CA has expired on"):
        verify_chain(leaf, anchors, [middle], NOW, revocation_list(12345, past))
    both = revocation_list(12345, past) + revocation_list(12346, NOW)
    verify_chain(leaf, anchors, [middle], NOW, both)
    with pytest.raises(SignatureError, match="is revoked"):
        verify_chain(leaf, anchors, [middle], NOW, revocation_list(LEAF.serial_number, past) + both)


def test_ca_chain_flag() -> None:
    leaf = signing.certificate("signer", issuer="root")
    body = signing.whitelist_body(signing.fingerprint(leaf), flags="Wcachain")
    accept(GOOD, sign_whitelist(body), signing.pem(leaf), authorities=authorities(ROOT))
    with pytest.raises(SignatureError, match="no trusted CA"):
        accept(GOOD, sign_whitelist(body), signing.pem(leaf))


def test_the_pure_modules_do_no_input_or_output() -> None:
    """Trust is bytes in, verdict out: nothing in it may reach for files or sockets."""
    import ast
    import importlib

    for name in ("trust", "manifest", "whitelist", "pkcs7", "x509", "rsa", "der", "hash"):
        module = importlib.import_module(f"cvmfs_client.{name}")
        assert module.__file__
        with open(module.__file__, encoding="utf-8") as f:
            tree = ast.parse(f.read())
        imported = {
            alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
        } | {
            (n.module or "").split(".")[0]
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom) and not n.level
        }
        assert not imported & {"os", "io", "socket", "ssl", "pathlib", "subprocess", "urllib", "sqlite3"}, (
            name
        )
        calls = {
            n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert "open" not in calls, name
    verify_manifest(parse_manifest(GOOD, FQRN), parse_certificate(signing.der(SIGNER)))
