"""The store over one Redis-protocol server: Python around the Lua scripts of `gregor.store.lua`."""
