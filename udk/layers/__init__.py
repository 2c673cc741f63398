"""Tar streams to trees: parser, decompressors, extractor, whiteouts and the ownership record."""
