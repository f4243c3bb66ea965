"""Helpers without a subject of their own: files, names, devices, threads, prefetching."""
