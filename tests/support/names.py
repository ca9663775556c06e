"""Strategies of names: every character that the alphabet allows."""

from __future__ import annotations

from hypothesis import strategies as st

from gregor.core.ids import NAME, USER_ID

NAMES = st.from_regex(NAME, fullmatch=True)
USER_IDS = st.from_regex(USER_ID, fullmatch=True)
