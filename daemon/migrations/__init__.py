"""The history of a local database: numbered SQL files, applied in order, once, and recorded.

`files` finds and checks them, `statements` takes one apart, `runner` puts them in effect.
"""
