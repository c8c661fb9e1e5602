"""Applications of the library: the command line, the benchmark, the papers' tables, the comparison with other models.

They use fastgan as any user could; no module of the library imports them.
"""
