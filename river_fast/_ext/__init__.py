"""The door to the compiled part: what it promises stands in the `.pyi` files beside this one.

Used by `producer.py` and `completer.py` only. libpq is not linked: `load_libpq(path)` of each module fills its function
table from the libpq that psycopg has loaded (`driver.libpq_path()`), before anything else of the module is used.
"""
