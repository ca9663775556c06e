"""The device protocol: sessions, frames and deadlines. Pure: no I/O, no clock."""
