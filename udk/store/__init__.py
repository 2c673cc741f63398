"""The local store: blobs, references, trees and leases on disk, shared by any number of processes."""

from udk.store.refs import StoredImage
from udk.store.store import Store

__all__ = ["Store", "StoredImage"]
