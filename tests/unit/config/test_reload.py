"""Reload: what is applied, what waits for a restart, what is refused, and when a change is seen at all."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from omnipam.core.cidr import parse
from omnipam.runtime.config import Change, Config, Watched, apply_live, changed, fingerprint, load, refusals


def config(**settings: str) -> Config:
    data = {name.replace("_", "-"): text for name, text in settings.items()}
    return load(argparse.Namespace(), {"HOME": "/home/u"}, data).config


def test_nothing_changed() -> None:
    one, other = config(), config(enable_ipv4="true")
    assert changed(one, other) == Change((), ())
    assert changed(one, other).warning is None
    assert apply_live(one, other) == one


def test_live_keys_are_applied_and_the_others_wait() -> None:
    old = config(cluster_pool_ipv4_cidr="10.1.0.0/16")
    new = config(
        cluster_pool_ipv4_cidr="10.1.0.0/16,10.2.0.0/16", cluster_pool_ipv4_mask_size="25", cluster_pool_reserved="10.1.0.1",
        cluster_pool_quarantine="5m", cluster_pool_max_blocks_per_node="3", log_level="debug", nodes_gc_interval="0",
    )  # fmt: skip
    change = changed(old, new)
    assert change.live == (
        "cluster-pool-ipv4-cidr", "cluster-pool-ipv4-mask-size", "cluster-pool-reserved", "cluster-pool-quarantine",
        "cluster-pool-max-blocks-per-node",
    )  # fmt: skip
    assert change.restart == ("nodes-gc-interval", "log-level")
    assert change.warning == (
        "nodes-gc-interval, log-level: changed, and needs a restart; the running value stays until then"
    )
    merged = apply_live(old, new)
    assert merged.pool_cidrs("ipv4") == (parse("10.1.0.0/16"), parse("10.2.0.0/16"))
    assert merged.cluster_pool_quarantine == 300.0
    assert (merged.log_level, merged.nodes_gc_interval) == ("info", 300.0)
    assert merged.sources["log-level"] == "default"
    assert changed(merged, new) == Change((), change.restart)
    assert refusals(old, new) == ()


def test_a_family_that_comes_or_goes_waits_with_its_pool() -> None:
    single, dual = config(), config(enable_ipv6="true", cluster_pool_ipv6_cidr="fd00::/104")
    waiting = ("enable-ipv6", "cluster-pool-ipv6-cidr", "cluster-pool-ipv6-mask-size")
    assert changed(single, dual) == Change((), waiting)
    assert changed(dual, single) == Change(
        (), ("enable-ipv6", "cluster-pool-ipv6-cidr", "cluster-pool-ipv6-mask-size")
    )
    assert refusals(single, dual) == refusals(dual, single) == ()
    assert apply_live(dual, single) == dual


def test_another_mode_waits_with_everything() -> None:
    old, new = config(cluster_pool_reserved="10.0.0.1"), config(ipam="kubernetes")
    assert changed(old, new).live == ()
    assert refusals(old, new) == ()


def test_a_pool_whose_key_is_gone_is_not_replaced_by_the_default() -> None:
    assert refusals(config(cluster_pool_ipv4_cidr="10.1.0.0/16"), config()) == (
        (
            "cluster-pool-ipv4-cidr: was 10.1.0.0/16 and is gone: a running pool is not emptied (no source sets it);"
            " set it, or restart to use the default pool"
        ),
    )


def test_a_list_that_became_empty_looks_half_written() -> None:
    old = config(cluster_pool_reserved="10.0.0.1")
    assert refusals(old, config(cluster_pool_reserved="")) == (
        (
            "cluster-pool-reserved: was 10.0.0.1/32 and is now empty (ConfigMap kube-system/cilium-config);"
            " remove the key to clear it"
        ),
    )
    assert refusals(old, config()) == ()
    assert refusals(config(), old) == ()


def test_what_would_only_be_wrong_together_with_the_running_rest() -> None:
    old = config(enable_ipv6="true", cluster_pool_ipv6_cidr="fd00::/112", cluster_pool_ipv6_mask_size="120")
    new = config(
        cluster_pool_reserved="fd00::/64"
    )  # turns IPv6 off, which waits, and reserves all of the running pool
    assert [line.split(":")[0] for line in refusals(old, new)] == ["cluster-pool-reserved"]


def touch(path: Path, text: str) -> None:
    """Writes, with a modification time that surely differs: the file system's clock may be coarse."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1, before + 1))


def test_a_change_is_reported_once_and_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    touch(path, "a")
    watched = Watched(path)
    assert [watched.changed() for _ in range(3)] == [False, False, False]
    touch(path, "b")
    assert watched.changed() is False
    touch(path, "c")  # still being written
    assert [watched.changed() for _ in range(4)] == [False, True, False, False]


def test_a_file_that_came_back_as_it_was_did_not_change(tmp_path: Path) -> None:
    path, aside = tmp_path / "c.yaml", tmp_path / "aside"
    touch(path, "a")
    watched = Watched(path)
    path.rename(aside)
    assert watched.changed() is False
    aside.rename(path)
    assert [watched.changed() for _ in range(3)] == [False, False, False]


def test_removal_and_replacement_are_changes(tmp_path: Path) -> None:
    path, other = tmp_path / "c.yaml", tmp_path / "other"
    touch(path, "a")
    watched = Watched(path)
    path.unlink()
    assert [watched.changed() for _ in range(3)] == [False, True, False]
    touch(other, "a")
    other.rename(path)
    assert [watched.changed() for _ in range(3)] == [False, True, False]


def test_every_file_of_a_plain_directory_counts(tmp_path: Path) -> None:
    touch(tmp_path / "ipam", "cluster-pool")
    (tmp_path / "dangling").symlink_to("nowhere")
    seen = {fingerprint(tmp_path)}
    touch(tmp_path / "ipam", "kubernetes")
    seen.add(fingerprint(tmp_path))
    touch(tmp_path / "enable-ipv6", "true")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "ipam").unlink()
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
    touch(tmp_path / ".swp", "x")
    assert fingerprint(tmp_path) in seen


def test_the_swap_of_a_mounted_configmap_counts(tmp_path: Path) -> None:
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "ipam").write_text("cluster-pool")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "ipam").symlink_to("..data/ipam")
    directory, file = Watched(tmp_path), Watched(tmp_path / "ipam")
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert [directory.changed() for _ in range(3)] == [False, True, False]
    assert [file.changed() for _ in range(3)] == [False, True, False]


def test_fingerprints_never_raise() -> None:
    for path in ("/no/such", "", "a\0b", "/dev/null"):
        assert fingerprint(path) == fingerprint(path)
