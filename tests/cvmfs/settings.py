"""A configuration for tests: parameters from keyword arguments."""

from __future__ import annotations


class Settings:
    """Implements cvmfs_client.interfaces.Config; names without their CVMFS_ prefix, in lower case."""

    def __init__(self, fqrn: str = "sw.example.org", **values: object) -> None:
        self.fqrn = fqrn
        quick = {"timeout": 1, "timeout_direct": 1, "backoff_init": 0, "dns_timeout": 1}
        self.values = {f"CVMFS_{k.upper()}": str(v) for k, v in {**quick, **values}.items()}

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)

    def boolean(self, name: str, default: bool = False) -> bool:
        text = self.values.get(name, "").lower()
        return text in ("yes", "on", "1", "true") if text else default

    def integer(self, name: str, default: int) -> int:
        return int(self.values.get(name, default))

    def items(self, name: str, separator: str) -> list[str]:
        return [p.strip() for p in self.values.get(name, "").split(separator) if p.strip()]
