"""A delayed message without its bodies has the same cancellers, and looks the same in a list."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.categories.policy import NO_POLICIES
from gregor.core.messages.delayed import (
    DelayedMessage,
    decode_delayed_header,
    decode_delayed_message,
    decode_delayed_senders,
    decode_delayed_text,
)
from gregor.core.messages.model import Sender
from tests.property.conversations import SENDERS, Sent, conversations
from tests.support.builders import LIMITS, NOW

CANCELLERS = st.sampled_from((*SENDERS, Sender("phone", None, ("chat",)), Sender("", (), ())))


@given(conversations(is_explicit=False, min_size=1, max_size=1), CANCELLERS)
def test_header_decides_as_the_whole_message(sent: list[Sent], canceller: Sender) -> None:
    document = {"id": "m", "not_before": NOW + 60.5, **sent[0].document}
    raw = DelayedMessage(document, sent[0].sender, 7, ("key", "other"), 8).encode()

    whole, header, senders = decode_delayed_message(raw), decode_delayed_header(raw), decode_delayed_senders(raw)

    assert senders == replace(whole, document={"id": whole.id})
    assert header.may_be_cancelled_by(canceller, LIMITS, NO_POLICIES) == whole.may_be_cancelled_by(
        canceller, LIMITS, NO_POLICIES
    )
    assert header.is_reset == whole.is_reset
    assert (header.id, header.receipt(1), header.sender) == (whole.id, whole.receipt(1), whole.sender)
    for name in ("system", "not_before"):
        assert header.document[name] == whole.document[name]


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
)
def test_any_stored_document_can_be_read(body: object) -> None:
    """A document that an earlier release accepted may have a form that is refused now."""
    document = {"id": "m", "system": "gregor", "not_before": 1, "body": body}
    raw = DelayedMessage(document, Sender("phone")).encode()

    assert decode_delayed_header(raw).is_reset == decode_delayed_message(raw).is_reset
    assert decode_delayed_senders(raw).sender == Sender("phone")


@given(conversations(is_explicit=False, min_size=1, max_size=1))
def test_text_is_the_json_of_the_whole_message(sent: list[Sent]) -> None:
    document = {"id": "m", "not_before": NOW + 60.5, **sent[0].document}
    raw = DelayedMessage(document, sent[0].sender, 7, ("key",), 8).encode()

    text = decode_delayed_text(raw)

    assert bytes(text.json) == msgspec.json.encode(decode_delayed_message(raw).document)
    assert (text.device, text.accepted_us, text.key_ids) == (sent[0].sender.device, 7, ("key",))
