"""Secrets are masked in a stream, however it is cut (safety.md A2, abuse case 12). The asset: the secrets of
whoever sent the job, against whoever may read its log."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradient_jupyter.engines.local.masking import SHORTEST, Masking, Patterns, forms

#: Few letters, so that secrets overlap themselves and each other, and their beginnings are everywhere.
SECRET = st.text("ab*\n", min_size=1, max_size=9) | st.text(min_size=1, max_size=40).filter(
    lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text) and "\0" not in text
)
PIECE = st.binary(max_size=12) | st.text("ab*\n", max_size=12).map(str.encode)


def through(secrets: list[str], chunks: list[bytes]) -> bytes:
    masking = Masking(Patterns(secrets))
    return b"".join(masking.feed(chunk) for chunk in chunks) + masking.end()


def simply(patterns: Patterns, whole: bytes) -> bytes:
    """What should come out, said in the slowest way: every byte that belongs to an occurrence is covered."""
    places = sorted(
        (at, at + len(form))
        for form in patterns.forms
        for at in range(len(whole) - len(form) + 1)
        if whole.startswith(form, at)
    )
    out, at = b"", 0
    for start, stop in places:
        if start >= at:
            out += whole[at:start] + patterns.mask
        at = max(at, stop)
    return out + whole[at:]


@given(st.lists(SECRET, min_size=1, max_size=3), st.data())
def test_no_cut_lets_a_secret_through_and_nothing_else_is_changed(secrets, data):
    around = st.sampled_from([form for secret in secrets for form in forms(secret)] or [b"ab"])
    chunks = data.draw(st.lists(PIECE | around, max_size=12))
    whole = b"".join(chunks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    recut = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    patterns = Patterns(secrets)
    shown = through(secrets, recut)
    assert shown == simply(patterns, whole)
    assert shown == through(secrets, [whole[at : at + 1] for at in range(len(whole))])
    if not any(patterns.mask[:1] in form for form in patterns.forms):
        for secret in secrets:
            if len(secret.encode()) >= SHORTEST:
                assert secret.encode() not in shown


#: Secrets that are the beginning of others, or of a form of their own.
_NESTED = st.tuples(st.text("ab%\\ ", min_size=SHORTEST, max_size=7), st.text("ab%\\ ", max_size=3)).flatmap(
    lambda pair: st.sampled_from([[pair[0]], [pair[0], pair[0] + pair[1]], [pair[0] + pair[1], pair[0]]])
)


@given(_NESTED, st.data())
def test_a_secret_that_is_the_beginning_of_another_is_masked_at_the_end_too(secrets, data):
    patterns = Patterns(secrets)
    whole = data.draw(PIECE) + data.draw(st.sampled_from(patterns.forms))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    shown = through(secrets, [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])
    assert shown == simply(patterns, whole)
    assert patterns.text(whole.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape") == shown
    for form in patterns.forms:
        assert form not in shown


@pytest.mark.parametrize(
    ("secrets", "said", "shown"),
    [
        (["secret-one", "secret-one-longer"], b"secret-one", b"***"),
        (["secret-one-longer", "secret-one"], b"secret-one-lo", b"***-lo"),
        (["100 per cent%"], b"100 per cent%", b"***"),
        (["C:\\some\\place\\"], b"C:\\some\\place\\", b"***"),
    ],
)
def test_what_a_process_says_last_is_masked_without_a_line_end(secrets, said, shown):
    assert through(secrets, [said]) == shown
    assert through(secrets, [said[at : at + 1] for at in range(len(said))]) == shown
    assert Patterns(secrets).text(said.decode()) == shown.decode()


@given(st.lists(SECRET, max_size=3), st.lists(PIECE, max_size=8))
@example(["abab"], [b"ab", b"ab", b"ab", b"ab"])
@example(["aaaa"], [b"a"] * 50)
@example(["abcdef", "bcd"], [b"abcd", b"x"])
def test_only_what_may_be_the_beginning_of_a_secret_waits(secrets, chunks):
    patterns = Patterns(secrets)
    masking = Masking(patterns)
    given_bytes = b""
    for chunk in chunks:
        masking.feed(chunk)
        given_bytes += chunk
        held = masking._held
        assert given_bytes.endswith(held)
        assert not held or any(len(held) < len(form) and form.startswith(held) for form in patterns.forms)


def test_ordinary_lines_are_shown_at_once():
    masking = Masking(Patterns(["hf_AbCdEfGhIj"]))
    for line in (b"epoch 1\n", b"loss 0.5 ", b"progress 50%\r"):
        assert masking.feed(line) == line


@pytest.mark.parametrize(
    "secret", ["pä$$ wörd/+\"'\\", "correct horse battery", "hf_AbCdEfGhIjKlMnOpQr", "a\nb c d e f"]
)
@pytest.mark.parametrize("before", ["", "u", "us", "use"])
def test_what_programs_make_of_a_secret_is_masked_too(secret, before):
    text = secret.encode()
    told = {
        "json": json.dumps({"token": secret}),
        "unicode json": json.dumps({"token": secret}, ensure_ascii=False),
        "repr": f"{[secret]!r} {[text]!r}",
        "url": f"https://x/?t={quote(secret, safe='')}&u={quote_plus(secret)}&v={quote(secret)}",
        "basic": base64.b64encode(f"{before}:{secret}".encode()).decode(),
        "urlsafe": base64.urlsafe_b64encode(f"{before}:{secret}:after".encode()).decode(),
    }
    for how, line in told.items():
        shown = through([secret], [line.encode()]).decode()
        assert shown != line, how
        for form in forms(secret):
            assert form not in shown.encode(), how


def test_each_line_of_a_private_key_is_masked_and_its_frame_is_not():
    key = (
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n"
        "-----END PRIVATE KEY-----\n"
    )
    said = b"  | -----BEGIN PRIVATE KEY-----\n  | MIIEvQIBADANBgkqhkiG9w0B\n"
    assert through([key], [said]) == b"  | -----BEGIN PRIVATE KEY-----\n  | ***\n"


def test_what_is_too_short_is_left_alone():
    assert through(["abc", ""], [b"abc abcabc"]) == b"abc abcabc"


def test_the_mask_of_one_secret_never_makes_another():
    assert through(["x***y", "hunter22"], [b"xhunter22y"]) == b"x###y"


def test_a_secret_of_many_bytes_costs_little_where_it_begins_everywhere():
    """Abuse: a job that writes nothing but beginnings of its longest secret only ever holds up itself."""
    secret = "a" * 60_000 + "b"
    masking = Masking(Patterns([secret]))
    shown = sum(len(masking.feed(b"a" * 65536)) for _ in range(20))
    assert shown + len(masking.end()) == 20 * 65536
