"""Gregor's own texts for users, translated: the unsubscribe link of e-mails, and its page.

All other texts come from templates. An unknown language gets English.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gregor.core.categories.policy import normalize_locale


@dataclass(frozen=True, slots=True)
class Translation:
    """The texts in one language. ``tag`` is the language tag of HTML."""

    tag: str
    unsubscribe: str
    ask: str
    done: str
    unknown: str

    @property
    def direction(self) -> str:
        """The text direction: ``ltr`` or ``rtl``."""
        return direction_of(self.tag)


_RIGHT_TO_LEFT: Final = frozenset(("ar", "arc", "ckb", "dv", "fa", "he", "ks", "ps", "sd", "ug", "ur", "yi"))
_WEIGHTED: Final = re.compile(r"([A-Za-z0-9*-]{1,35})\s*(?:;\s*q=([01](?:\.\d{0,3})?))?")
_MOST_PARTS: Final = 20
_MOST_CHARACTERS: Final = 64
"""Of a part of ``Accept-Language``. The time for a part with many spaces would grow with their square."""

_LISTED: Final = (
    Translation(
        "en",
        "Unsubscribe",
        "No more mails of this kind?",
        "You will get no more mails of this kind.",
        "This link is not valid.",
    ),
    Translation(
        "ar",
        "إلغاء الاشتراك",
        "هل تريد إيقاف هذا النوع من الرسائل؟",
        "لن تصلك رسائل من هذا النوع بعد الآن.",
        "هذا الرابط غير صالح.",
    ),
    Translation(
        "de",
        "Abbestellen",
        "Keine E-Mails dieser Art mehr?",
        "Du bekommst keine E-Mails dieser Art mehr.",
        "Dieser Link ist nicht gültig.",
    ),
    Translation(
        "es",
        "Cancelar la suscripción",
        "¿No quieres más correos de este tipo?",
        "Ya no recibirás correos de este tipo.",
        "Este enlace no es válido.",
    ),
    Translation(
        "fa",
        "لغو اشتراک",
        "دیگر ایمیلی از این نوع نمی‌خواهید؟",
        "دیگر ایمیلی از این نوع دریافت نخواهید کرد.",
        "این پیوند معتبر نیست.",
    ),
    Translation(
        "fr",
        "Se désabonner",
        "Ne plus recevoir ce type d’e-mails ?",
        "Vous ne recevrez plus ce type d’e-mails.",
        "Ce lien n’est pas valide.",
    ),
    Translation(
        "he", "ביטול הרשמה", "להפסיק הודעות מסוג זה?", "לא יישלחו אליך עוד הודעות מסוג זה.", "הקישור אינו תקף."
    ),
    Translation(
        "it",
        "Annulla l’iscrizione",
        "Non vuoi più e-mail di questo tipo?",
        "Non riceverai più e-mail di questo tipo.",
        "Questo link non è valido.",
    ),
    Translation(
        "ja",
        "配信停止",
        "この種類のメールを停止しますか?",
        "この種類のメールは今後届きません。",
        "このリンクは無効です。",
    ),
    Translation(
        "ko",
        "수신 거부",
        "이런 메일을 더 이상 받지 않을까요?",
        "이런 메일은 더 이상 발송되지 않습니다.",
        "유효하지 않은 링크입니다.",
    ),
    Translation(
        "nl",
        "Afmelden",
        "Geen e-mails van dit soort meer?",
        "Je krijgt geen e-mails van dit soort meer.",
        "Deze link is niet geldig.",
    ),
    Translation(
        "pl",
        "Wypisz się",
        "Nie chcesz już takich wiadomości?",
        "Nie będziesz już otrzymywać takich wiadomości.",
        "Ten link jest nieprawidłowy.",
    ),
    Translation(
        "pt",
        "Cancelar a subscrição",
        "Não quer mais e-mails deste tipo?",
        "Não receberá mais e-mails deste tipo.",
        "Este link não é válido.",
    ),
    Translation(
        "ru",
        "Отписаться",
        "Больше не присылать такие письма?",
        "Такие письма больше не будут приходить.",
        "Эта ссылка недействительна.",
    ),
    Translation(
        "sv",
        "Avsluta prenumerationen",
        "Inga fler mejl av det här slaget?",
        "Du får inga fler mejl av det här slaget.",
        "Länken är inte giltig.",
    ),
    Translation(
        "tr",
        "Abonelikten çık",
        "Bu tür e-postalar artık gelmesin mi?",
        "Bu tür e-postalar artık gönderilmeyecek.",
        "Bu bağlantı geçerli değil.",
    ),
    Translation(
        "uk",
        "Відписатися",
        "Більше не надсилати такі листи?",
        "Такі листи більше не надходитимуть.",
        "Це посилання недійсне.",
    ),
    Translation("zh", "退订", "不再接收此类邮件?", "您将不再收到此类邮件。", "此链接无效。"),
)
LANGUAGES: Final = {translation.tag: translation for translation in _LISTED}


def translation_for(locale: str | None) -> Translation:
    """Return the texts for a locale."""
    return LANGUAGES.get(normalize_locale(locale or "").partition("-")[0], LANGUAGES["en"])


def accepted_translation(header: str) -> Translation:
    """Return the texts for an ``Accept-Language`` header."""
    asked: list[tuple[float, str]] = []
    for part in header.split(",", _MOST_PARTS)[:_MOST_PARTS]:
        match = _WEIGHTED.fullmatch(part.strip()) if len(part) <= _MOST_CHARACTERS else None
        if match is not None and match[1].lower().partition("-")[0] in LANGUAGES:
            asked.append((float(match[2] or 1), match[1]))
    return translation_for(max(asked, key=lambda each: each[0], default=(0.0, None))[1])


def direction_of(locale: str | None) -> str:
    """Return the text direction of a locale: ``ltr`` or ``rtl``."""
    parts = normalize_locale(locale or "").split("-")
    return "rtl" if parts[0] in _RIGHT_TO_LEFT or parts[1:2] == ["arab"] or parts[1:2] == ["hebr"] else "ltr"
