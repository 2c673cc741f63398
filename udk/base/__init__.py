"""Stdlib-only leaf package: what udk and cvmfs_client both build on."""
