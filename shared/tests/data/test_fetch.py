import errno
import gzip
import hashlib
import os
import socket
import threading
import time
import warnings

import pytest

from corollary.data import CorruptFileError, DataUnavailable, fetch
from corollary.data import fetch as function


def kept(cache):
    """Files in the cache, except locks."""
    return sorted(path.name for path in cache.rglob("*") if not path.name.endswith(".lock")) if cache.exists() else []


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# Where a file is looked for


@pytest.mark.parametrize("place", ["", "timeseries", "ETT-small"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_users_folder_may_hold_plain_and_compressed_files_one_level_down(
    small, tmp_path, monkeypatch, place, packed
):
    name = "small.csv.gz" if packed else "small.csv"
    path = put(tmp_path / "own" / place / name, small.packed if packed else small.content)
    monkeypatch.setenv("COROLLARY_DATA", str(tmp_path / "own"))
    assert fetch(small.entry(), download=False) == path


def test_two_levels_down_is_not_searched(small, tmp_path):
    put(tmp_path / "own" / "a" / "b" / "small.csv", small.content)
    with pytest.raises(DataUnavailable):
        fetch(small.entry(), folder=tmp_path / "own", download=False)


def test_the_folder_given_wins_over_the_variable_and_both_over_the_cache(small, tmp_path, monkeypatch, cache):
    given, named, cached = (
        put(folder / "small.csv", small.content) for folder in (tmp_path / "a", tmp_path / "b", cache)
    )
    assert fetch(small.entry()) == cached
    monkeypatch.setenv("COROLLARY_DATA", str(named.parent))
    assert fetch(small.entry()) == named
    assert fetch(small.entry(), folder=given.parent) == given


def test_a_folder_without_the_file_leads_to_the_cache(small, tmp_path, cache):
    cached = put(cache / "small.csv.gz", small.packed)
    assert fetch(small.entry(), folder=tmp_path) == cached


def test_a_folder_that_does_not_exist_is_an_error_and_no_download(small, server, tmp_path, monkeypatch, cache):
    entry = small.entry(url=server.offer("small.csv", small.content))
    put(cache / "small.csv", small.content)
    monkeypatch.setenv("COROLLARY_DATA", str(tmp_path / "typo"))
    with pytest.raises(ValueError, match=r"COROLLARY_DATA must name an existing folder, got '.*typo'"):
        fetch(entry)
    for folder in (tmp_path / "typo", ""):
        with pytest.raises(ValueError, match="folder must name an existing folder, got"):
            fetch(entry, folder=folder)
    assert server.requests == []


def test_an_empty_variable_is_as_good_as_none(small, monkeypatch, cache):
    cached = put(cache / "small.csv", small.content)
    monkeypatch.setenv("COROLLARY_DATA", "")
    assert fetch(small.entry()) == cached


def test_names_are_those_of_the_registry(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'ETTh3'; did you mean 'ETTh2'"):
        fetch("ETTh3", folder=tmp_path)


# Wrong files


def test_an_edited_file_is_refused_with_its_path_and_both_digests(small, tmp_path):
    edited = small.content.replace(b"3.5", b"3.6")
    path = put(tmp_path / "small.csv", edited)
    with pytest.raises(CorruptFileError) as caught:
        fetch(small.entry(), folder=tmp_path)
    for part in (str(path), hashlib.sha256(small.content).hexdigest(), hashlib.sha256(edited).hexdigest()):
        assert part in str(caught.value)


def test_a_truncated_plain_file_is_refused_with_both_sizes(small, tmp_path):
    put(tmp_path / "small.csv", small.content[:-10])
    size = len(small.content)
    with pytest.raises(CorruptFileError, match=rf"\({size} bytes\), got [0-9a-f]{{64}} \({size - 10} bytes\)"):
        fetch(small.entry(), folder=tmp_path)


@pytest.mark.parametrize("cut", [5, 40, -1])
def test_a_truncated_archive_is_refused_with_both_digests(small, tmp_path, cut):
    path = put(tmp_path / "small.csv.gz", small.packed[:cut])
    digest = hashlib.sha256(small.content).hexdigest()
    with pytest.raises(
        CorruptFileError, match=f"{digest} .* damaged archive .* with SHA-256 [0-9a-f]{{64}} of"
    ) as caught:
        fetch(small.entry(), folder=tmp_path)
    assert str(path) in str(caught.value)


def test_an_archive_with_flipped_bits_or_none_at_all_is_refused(small, tmp_path):
    for damaged in (small.packed[:60] + bytes([small.packed[60] ^ 255]) + small.packed[61:], small.content):
        put(tmp_path / "small.csv.gz", damaged)
        with pytest.raises(CorruptFileError, match=r"small.csv.gz is not the registered Small"):
            fetch(small.entry(), folder=tmp_path)


def test_a_wrong_file_in_the_users_folder_is_not_passed_over(small, server, tmp_path, cache):
    put(tmp_path / "own" / "small.csv", b"date,load\n")
    put(cache / "small.csv", small.content)
    with pytest.raises(CorruptFileError):
        fetch(small.entry(url=server.offer("small.csv", small.content)), folder=tmp_path / "own")


def test_a_file_that_broke_in_the_cache_is_refused(small, cache):
    put(cache / "small.csv", small.content[:-1])
    with pytest.raises(CorruptFileError, match=str(cache / "small.csv")):
        fetch(small.entry())


def test_without_a_digest_on_record_a_warning_names_the_one_found(small, tmp_path):
    put(tmp_path / "small.csv.gz", small.packed)
    digest = hashlib.sha256(small.content).hexdigest()
    with pytest.warns(UserWarning, match=rf"no digest of Small is on record, .* its SHA-256 is {digest}"):
        fetch(small.entry(sha256=None, bytes=None), folder=tmp_path)


def test_without_a_digest_the_size_still_counts(small, tmp_path):
    put(tmp_path / "small.csv", small.content)
    with pytest.raises(CorruptFileError, match=r"expected SHA-256 not on record \(7 bytes\)"):
        fetch(small.entry(sha256=None, bytes=7), folder=tmp_path)


def test_a_digest_on_record_warns_of_nothing(small, tmp_path):
    put(tmp_path / "small.csv", small.content)
    with warnings.catch_warnings(action="error"):
        fetch(small.entry(), folder=tmp_path)


# Downloads


def test_a_download_is_kept_and_not_repeated(small, server, cache):
    entry = small.entry(url=server.offer("v1/table.csv", small.content))
    path = fetch(entry, progress=False)
    assert path == cache / "small.csv"
    assert path.read_bytes() == small.content
    assert fetch(entry) == path
    assert server.requests == ["/v1/table.csv"]
    assert kept(cache) == ["small.csv"]


def test_the_digest_of_a_compressed_download_is_that_of_its_content(small, server, cache):
    path = fetch(small.entry(url=server.offer("table.csv.gz", small.packed)), progress=False)
    assert path == cache / "small.csv.gz"
    assert gzip.decompress(path.read_bytes()) == small.content


def test_a_wrong_download_is_refused_and_nothing_of_it_is_kept(small, server, cache):
    url = server.offer("table.csv", b"<html>Too many requests</html>")
    with pytest.raises(CorruptFileError, match=rf"the download from {url} is not the registered Small: .*\(30 bytes\)"):
        fetch(small.entry(url=url), progress=False)
    assert kept(cache) == []
    server.offer("table.csv", small.content)
    assert fetch(small.entry(url=url), progress=False).read_bytes() == small.content


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_a_connection_that_breaks_leaves_nothing_behind(small, server, cache, packed, sized):
    body, name = (small.packed, "table.csv.gz") if packed else (small.content, "table.csv")
    url = server.offer(name, body[: len(body) // 2], announced=len(body))
    digest = hashlib.sha256(small.content).hexdigest() if sized else None
    with pytest.raises(DataUnavailable, match=r"its download failed: .*IncompleteRead"):
        fetch(small.entry(url=url, sha256=digest, bytes=None), progress=False)
    assert kept(cache) == []


def test_the_file_appears_only_when_it_is_whole(small, server, cache, monkeypatch):
    seen = []
    check = function.__globals__["_check"]

    def look(entry, path, **options):
        seen.append((path.name == "small.csv", "small.csv" in kept(cache)))
        return check(entry, path, **options)

    monkeypatch.setitem(function.__globals__, "_check", look)
    fetch(small.entry(url=server.offer("table.csv", small.content)), progress=False)
    assert seen == [(False, False), (True, True)]


def test_an_interrupted_download_leaves_nothing_behind(small, server, cache, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(function.__globals__, "_check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(small.entry(url=server.offer("table.csv", small.content)), progress=False)
    assert kept(cache) == []


def test_processes_that_need_one_file_download_it_once(small, server):
    entry = small.entry(url=server.offer("table.csv", small.content))
    threads = [threading.Thread(target=fetch, args=(entry,), kwargs={"progress": False}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == ["/table.csv"]


def test_progress_is_one_line_with_the_address_or_nothing(small, server, cache, monkeypatch, capsys):
    import pooch

    lines = []
    monkeypatch.setattr(pooch.get_logger(), "handle", lambda record: lines.append(record.getMessage()))
    url = server.offer("table.csv", small.content)
    fetch(small.entry(url=url), progress=False)
    assert lines == []
    (cache / "small.csv").unlink()
    fetch(small.entry(url=url))
    assert len(lines) == 1
    assert url in lines[0]
    assert capsys.readouterr() == ("", "")  # No bar where there is no terminal.


def test_a_bar_on_a_terminal_ends_full(small, server, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    fetch(small.entry(url=server.offer("table.csv", small.content)))
    size = len(small.content)
    assert f"{size}/{size} bytes" in capsys.readouterr().err


# When nothing can be had


def test_without_downloading_the_error_says_where_it_is_and_how_to_bring_it(small, server):
    url = server.offer("table.csv", small.content)
    with pytest.raises(DataUnavailable) as caught:
        fetch(small.entry(url=url), download=False)
    text = str(caught.value)
    assert "\n" not in text
    for part in ("Small", url, "small.csv or small.csv.gz", "COROLLARY_DATA", "switched off"):
        assert part in text
    assert server.requests == []


def test_an_entry_without_an_address_says_so(small):
    with pytest.raises(DataUnavailable, match=r"there is no address to download it from .* set COROLLARY_DATA"):
        fetch(small.entry(url=None))


def test_a_file_that_the_server_does_not_have_is_unavailable(small, server, cache):
    with pytest.raises(DataUnavailable, match="Small is not on this machine and its download failed: 404 Client Error"):
        fetch(small.entry(url=server.root + "gone.csv"), progress=False)
    assert kept(cache) == []


def test_offline_is_one_line_at_once(small, cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Bound and not listening: every connection is refused.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/table.csv"
        began = time.monotonic()
        with pytest.raises(DataUnavailable, match=f"download failed: .*{os.strerror(errno.ECONNREFUSED)}") as caught:
            fetch(small.entry(url=url), progress=False)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)
    assert kept(cache) == []


def test_a_full_disk_is_not_called_a_failed_download(small, server, monkeypatch):
    import pooch

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        fetch(small.entry(url=server.root + "table.csv"), progress=False)
    assert not isinstance(caught.value, DataUnavailable)
