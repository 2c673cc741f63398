"""The local store: blobs, references, trees and leases on disk, shared by any number of processes."""

from udk.store.store import Store, StoredImage

__all__ = ["Store", "StoredImage"]
