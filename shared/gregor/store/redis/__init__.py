"""The store in Redis: Python around the Lua scripts of `gregor/store/lua`."""
