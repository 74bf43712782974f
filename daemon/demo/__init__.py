"""A private MariaDB, a seeded central database, live traffic, and a comparison of both sides.

What `wpp-sync demo` shows, and what the tests stand on. Nothing of the daemon imports it.
"""
