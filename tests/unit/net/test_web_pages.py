"""Requests of web pages are distinguished from those of monitoring, probes and people."""

import pytest

from gregor.net.web_pages import is_of_page

BROWSER = {"user-agent": "Mozilla/5.0 (X11) Firefox/140.0", "accept-language": "en", "accept-encoding": "gzip"}
PRIVATE = (
    "127.0.0.1:8790",
    "[::1]:8790",
    "10.1.2.3",
    "localhost:8790",
    "a.localhost",
    "delivery",
    "delivery.internal:80",
)
PUBLIC = ("evil.example:8790", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "evil.example.")


@pytest.mark.parametrize("host", PUBLIC)
@pytest.mark.parametrize("removed", ["", "accept-language", "user-agent"])
def test_dns_rebinding_is_a_page(host: str, removed: str) -> None:
    headers = {name: value for name, value in BROWSER.items() if name != removed}

    assert is_of_page({**headers, "host": host})


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("site", ["none", "same-origin", None])
def test_person_with_a_browser_is_not_a_page(host: str, site: str | None) -> None:
    assert not is_of_page({**BROWSER, "host": host} | ({} if site is None else {"sec-fetch-site": site}))


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize(
    "header", [{"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "Same-Site"}]
)
def test_request_of_another_site_is_a_page(host: str, header: dict[str, str]) -> None:
    assert is_of_page({"host": host, **header})


@pytest.mark.parametrize("host", [*PRIVATE, *PUBLIC, "gregor-1.prod.example.com:8790", ""])
@pytest.mark.parametrize("agent", ["Prometheus/3.7.3", "kube-probe/1.34", "curl/8.14", "ELB-HealthChecker/2.0", None])
def test_monitoring_and_probes_are_not_pages(host: str, agent: str | None) -> None:
    assert not is_of_page({"host": host, "accept": "*/*"} | ({} if agent is None else {"user-agent": agent}))
