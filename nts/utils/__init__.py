"""General helpers: files, names, devices, threads, prefetching."""
