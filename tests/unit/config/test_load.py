"""Loading: which source wins, which defaults apply, and what every refusal says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnipam.core.cidr import Cidr, parse
from omnipam.runtime.config import KEYS, Config, InvalidConfig, Key, Loaded, add_arguments, load, store_of
from omnipam.runtime.config.modes import Served

HOME = {"HOME": "/home/u"}


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return parser.parse_args(list(words))


def loaded(*words: str, env: Mapping[str, str] = HOME, configmap: Mapping[str, str] | None = None) -> Loaded:
    return load(flags(*words), env, configmap)


def refused(
    *words: str, env: Mapping[str, str] = HOME, configmap: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    with pytest.raises(InvalidConfig) as caught:
        loaded(*words, env=env, configmap=configmap)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(line.isprintable() for line in caught.value.problems)
    return caught.value.problems


def outcome(attempt: Callable[[], Loaded]) -> tuple[str, ...]:
    """The problems, none if it gives a configuration; nothing else may come of it."""
    try:
        assert isinstance(attempt().config, Config)
    except InvalidConfig as error:
        return error.problems
    return ()


def test_defaults() -> None:
    config = loaded().config
    assert config.ipam == "cluster-pool"
    assert config.families == ("ipv4",)
    assert config.pool_cidrs("ipv4") == (parse("10.0.0.0/8"),)
    assert config.pool_mask("ipv4") == 24
    assert config.pool_cidrs("ipv6") == ()
    assert config.enable_metrics
    assert config.nodes_gc_interval == 300.0
    assert config.cluster_pool_quarantine == 0.0
    assert config.cluster_pool_max_blocks_per_node == 1
    assert config.lease_name == "cilium-operator-resource-lock"
    assert config.k8s_namespace == ""
    assert (str(config.operator_api_serve_addr), str(config.operator_prometheus_serve_addr)) == (
        "localhost:9234",
        ":9963",
    )
    assert config.request_timeout_s == 5.0
    assert config.store == "sqlite:////home/u/.local/state/omnipam/omnipam.db"
    assert set(config.sources.values()) == {"default"}


def test_config_has_a_field_for_every_key_and_no_other() -> None:
    assert [*Config.__struct_fields__] == [*(key.field for key in KEYS), "sources"]


@pytest.mark.parametrize(
    ("words", "cidrs", "mask"),
    [
        ([], "fd00::/104", 120),
        (["--cluster-pool-ipv6-mask-size", "116"], "fd00::/104", 116),
        (["--cluster-pool-ipv6-cidr", "fd00:1::/100"], "fd00:1::/100", 112),
        (["--cluster-pool-ipv6-cidr", "fd00::/40", "--cluster-pool-ipv6-mask-size", "64"], "fd00::/40", 64),
    ],
)
def test_ipv6_defaults(words: list[str], cidrs: str, mask: int) -> None:
    config = loaded("--enable-ipv6", "true", *words).config
    assert config.families == ("ipv4", "ipv6")
    assert config.pool_cidrs("ipv6") == (parse(cidrs),)
    assert config.pool_mask("ipv6") == mask


def test_kubernetes_mode_has_no_pools_and_checks_none() -> None:
    config = loaded("--ipam", "kubernetes", "--cluster-pool-ipv4-mask-size", "4").config
    assert config.pool_cidrs("ipv4") == ()


def test_the_last_source_wins() -> None:
    name, variable = "cluster-pool-ipv4-mask-size", "CLUSTER_POOL_IPV4_MASK_SIZE"
    configmap = {name: "20"}
    cilium = HOME | {f"CILIUM_{variable}": "21"}
    both = cilium | {f"OMNIPAM_{variable}": "22"}
    steps = [
        (loaded(), 24, "default"),
        (loaded(configmap=configmap), 20, "ConfigMap kube-system/cilium-config"),
        (loaded(configmap=configmap, env=cilium), 21, f"environment CILIUM_{variable}"),
        (loaded(configmap=configmap, env=both), 22, f"environment OMNIPAM_{variable}"),
        (loaded(f"--{name}", "23", configmap=configmap, env=both), 23, f"flag --{name}"),
    ]
    for result, mask, source in steps:
        assert (result.config.cluster_pool_ipv4_mask_size, result.config.sources[name]) == (mask, source)


def test_a_bad_value_that_is_overridden_does_not_matter() -> None:
    assert loaded("--enable-ipv6=false", configmap={"enable-ipv6": "perhaps"}).config.enable_ipv6 is False


def test_flags_repeat_and_a_lone_boolean_is_true() -> None:
    config = loaded(
        "--cluster-pool-ipv4-cidr",
        "10.0.0.0/16",
        "--cluster-pool-ipv4-cidr",
        "10.8.0.0/16 10.9.0.0/16",
        "--enable-ipv6",
    ).config
    assert config.pool_cidrs("ipv4") == (parse("10.0.0.0/16"), parse("10.8.0.0/16"), parse("10.9.0.0/16"))
    assert config.enable_ipv6


def test_flags_are_not_abbreviated_and_unknown_ones_refused() -> None:
    for words in (["--cluster-pool-q", "1s"], ["--no-such-key", "1"]):
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_arguments(parser)
        assert parser.parse_known_args(words)[1] == words


def test_store_default_follows_the_xdg_specification() -> None:
    assert loaded(env={"XDG_STATE_HOME": "/s"}).config.store == "sqlite:////s/omnipam/omnipam.db"
    assert (
        loaded(env={"XDG_STATE_HOME": "s", **HOME}).config.store
        == "sqlite:////home/u/.local/state/omnipam/omnipam.db"
    )


def test_store_is_known_before_the_configmap_is() -> None:
    assert store_of(flags(), HOME | {"OMNIPAM_STORE": "kubernetes"}) == "kubernetes"
    assert (
        store_of(flags("--store", "sqlite:///a.db"), HOME | {"OMNIPAM_STORE": "kubernetes"})
        == "sqlite:///a.db"
    )
    assert store_of(flags(), HOME) == loaded().config.store
    with pytest.raises(
        InvalidConfig, match=r"^store: postgres is no store \(flag --store\); write kubernetes"
    ):
        store_of(flags("--store", "postgres"), HOME)


MASK, POOL = "cluster-pool-ipv4-mask-size", "cluster-pool-ipv4-cidr"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            f"--{MASK} 7",
            ("cluster-pool-ipv4-mask-size: 7 is smaller than the prefix of 10.0.0.0/8"
            " (flag --cluster-pool-ipv4-mask-size); use 8 to 32"),
        ),
        (
            f"--{MASK} 33",
            ("cluster-pool-ipv4-mask-size: 33: SubNetMask is invalid, should be lower or equal to 32 for IPv4 and to 128"
            " for IPv6 (flag --cluster-pool-ipv4-mask-size) — use 8 to 32"),
        ),
        (
            f"--{POOL} 10.0.0.0/33",
            ("cluster-pool-ipv4-cidr: '10.0.0.0/33' is not a CIDR: the prefix length must be a number from 0 to 32"
            " (flag --cluster-pool-ipv4-cidr); write CIDRs separated by commas, as in 10.0.0.0/16,10.8.0.0/16"),
        ),
        (
            f"--{POOL} 10.0.0.0/8,10.1.0.0/16",
            ("cluster-pool-ipv4-cidr: requested CIDR 10.1.0.0/16 collides with clusterCIDR: 10.0.0.0/8, nodeMask: 24"
            " (flag --cluster-pool-ipv4-cidr) — remove one of the two"),
        ),
        (
            f"--{POOL}=",
            ("cluster-pool-ipv4-cidr: set but empty: cluster-pool-ipv4-cidr must be provided when using ClusterPool"
            " (flag --cluster-pool-ipv4-cidr) — write a CIDR, or remove the key for 10.0.0.0/8"),
        ),
        (
            f"--{POOL} fd00::/104",
            ("cluster-pool-ipv4-cidr: CIDR is not v4 family: fd00::/104 (flag --cluster-pool-ipv4-cidr)"
            " — put it into cluster-pool-ipv6-cidr"),
        ),
        (
            f"--enable-ipv4=false --enable-ipv6 --{POOL} 10.0.0.0/8",
            ("cluster-pool-ipv4-cidr: 10.0.0.0/8: cluster-pool-ipv4-cidr must not be set if IPv4 is disabled"
            " (flag --cluster-pool-ipv4-cidr) — remove it, or set enable-ipv4=true"),
        ),
        (
            "--cluster-pool-ipv6-cidr fd00::/104",
            ("cluster-pool-ipv6-cidr: fd00::/104: cluster-pool-ipv6-cidr must not be set if IPv6 is disabled"
            " (flag --cluster-pool-ipv6-cidr) — remove it, or set enable-ipv6=true"),
        ),
        (
            "--enable-ipv4=false",
            ("enable-ipv4: false, and enable-ipv6 is false too: no family is left (flag --enable-ipv4);"
            " set one of them to true"),
        ),
        (
            "--ipam cluster-pol",
            ("ipam: cluster-pol is not a mode that is served here (flag --ipam); use one of cluster-pool, kubernetes,"
            " multi-pool"),
        ),
        (
            "--nodes-gc-interval 60",
            "nodes-gc-interval: 60 has no unit (flag --nodes-gc-interval); write it as in 60s, 5m, 1m30s or 500ms",
        ),
        (
            "--cluster-pool-max-blocks-per-node 0",
            ("cluster-pool-max-blocks-per-node: 0 is too small (flag --cluster-pool-max-blocks-per-node); write a whole"
            " number, at most 2147483647, at least 1"),
        ),
        (
            "--cluster-pool-reserved 0.0.0.0/0",
            ("cluster-pool-reserved: 0.0.0.0/0 leaves no /24 block of 10.0.0.0/8 (flag --cluster-pool-reserved);"
            " reserve less, or add a CIDR to cluster-pool-ipv4-cidr"),
        ),
        (
            f"--{POOL} 10.0.0.0/23 --cluster-pool-reserved 10.0.1.200,10.0.0.128/25,10.0.0.130",
            ("cluster-pool-reserved: 10.0.1.200/32,10.0.0.128/25,10.0.0.130/32 leaves no /24 block of 10.0.0.0/23"
            " (flag --cluster-pool-reserved); reserve less, or add a CIDR to cluster-pool-ipv4-cidr"),
        ),
        (
            "--leader-election-renew-deadline 15s",
            ("leader-election-renew-deadline: 15s against 15s: leaseDuration must be greater than renewDeadline"
            " (flag --leader-election-renew-deadline) — use less than leader-election-lease-duration"),
        ),
        (
            "--leader-election-renew-deadline 2.4s",
            ("leader-election-retry-period: 2s against 2.4s: renewDeadline must be greater than retryPeriod*JitterFactor"
            " (default) — use less than leader-election-renew-deadline / 1.2"),
        ),
        (
            "--leader-election-lease-duration 15500ms",
            ("leader-election-lease-duration: 15.5s is no number of whole seconds, as a Lease counts"
            " (flag --leader-election-lease-duration); round it"),
        ),
        (
            "--lease-name Nope",
            ("lease-name: Nope is not a name Kubernetes takes (lower-case letters, digits, '-', '.') (flag --lease-name);"
            " write the object's name"),
        ),
        (
            "--k8s-namespace a.b",
            ("k8s-namespace: a.b is not a namespace Kubernetes takes (at most 63 lower-case letters, digits, '-')"
            " (flag --k8s-namespace); write the namespace's name"),
        ),
        (
            f"--k8s-namespace {'n' * 64}",
            (f"k8s-namespace: {'n' * 59}… is not a namespace Kubernetes takes (at most 63 lower-case letters, digits, '-')"
            " (flag --k8s-namespace); write the namespace's name"),
        ),
        (
            "--cluster-pool-ipv6-mask-size 300",
            ("cluster-pool-ipv6-mask-size: 300 is no prefix length (flag --cluster-pool-ipv6-mask-size);"
            " use 1 to 128, or remove it"),
        ),
        (
            f"--{POOL} 0.0.0.0/0 --{MASK} 0",
            f"{MASK}: 0 is smaller than the prefix of 0.0.0.0/0 (flag --{MASK}); use 1 to 32",
        ),
        (
            "--store sqlite:///a?b",
            ("store: sqlite:///a?b has a query or fragment, which has no meaning here (flag --store);"
            " write kubernetes, or sqlite:///path.db"),
        ),
        (
            "--store sqlite:///a/",
            "store: sqlite:///a/ names no file (flag --store); write kubernetes, or sqlite:///path.db",
        ),
        ("--log-level=", "log-level: set but empty (flag --log-level); use one of debug, info, warning, error"),
        (
            "--k8s-client-burst 5",
            "k8s-client-burst: 5 is set without k8s-client-qps (flag --k8s-client-burst); set both or neither",
        ),
    ],
)  # fmt: skip
def test_refusals(words: str, expected: str) -> None:
    assert refused(*words.split()) == (expected,)


def test_all_problems_are_found_at_once_and_none_twice() -> None:
    lines = refused(
        "--ipam", "nope", "--enable-ipv6=maybe", "--nodes-gc-interval=1d",
        env=HOME | {"OMNIPAM_STORE": "mysql"}, configmap={POOL: "10.0.0.0", "log-level": "loud"},
    )  # fmt: skip
    assert [line.split(":")[0] for line in lines] == [
        "ipam",
        "enable-ipv6",
        POOL,
        "store",
        "nodes-gc-interval",
        "log-level",
    ]
    assert "(environment OMNIPAM_STORE)" in lines[3]
    assert "(ConfigMap kube-system/cilium-config)" in lines[5]


def test_pool_problems_of_both_families() -> None:
    lines = refused(
        "--enable-ipv6",
        "--cluster-pool-ipv6-cidr",
        "fd00::/104,10.0.0.0/8,fd00::/110",
        f"--{POOL}",
        "10.0.0.0/25",
    )
    assert [line.split(":")[0] for line in lines] == [
        MASK,
        "cluster-pool-ipv6-cidr",
        "cluster-pool-ipv6-cidr",
    ]


def test_reserved_counts_against_the_whole_pool() -> None:
    config = loaded(
        f"--{POOL}", "10.0.0.0/24 10.1.0.0/24", "--cluster-pool-reserved", "10.0.0.1 192.168.0.0/16"
    ).config
    assert len(config.cluster_pool_reserved) == 2


def test_a_key_that_means_nothing_here_is_said_where_it_would_do_something() -> None:
    words = ("--ipam=multi-pool", "--multi-pool-migration-workers=4")
    assert loaded(*words).warnings == ()
    migrate = "--enable-cluster-pool-to-multi-pool-migration=true"
    assert loaded("--ipam=multi-pool", migrate).warnings == ()
    (warning,) = loaded(*words, migrate).warnings
    assert warning == (
        "multi-pool-migration-workers: does nothing here: nodes that are migrated are written like all others, "
        "32 at once at most (flag --multi-pool-migration-workers); remove it"
    )


def test_unknown_names_give_one_line_without_values() -> None:
    result = loaded(
        configmap={"bpf-map": "SECRET1", "debug": "SECRET2"},
        env=HOME
        | {"CILIUM_FOO": "SECRET3", "OMNIPAM_\n": "SECRET4", "OMNIPAM_X": "", "OMNIPAM_Y": "", "PATH": "x"},
    )
    assert result.warnings == (
        (
            "ignored 6 keys that are not omnipam's: bpf-map, debug, CILIUM_FOO, 'OMNIPAM_\\n', OMNIPAM_X, …"
            " (2 in ConfigMap kube-system/cilium-config, 4 in the environment)"
        ),
    )
    assert loaded().warnings == ()


@pytest.mark.parametrize(
    ("mode", "store", "strict", "advice"),
    [
        ("eni", "kubernetes", False, "use one of cluster-pool, kubernetes, multi-pool"),
        ("bogus", "kubernetes", True, "use one of cluster-pool, kubernetes, multi-pool"),
        ("eni", "sqlite:///x.db", False, "use one of cluster-pool, multi-pool, or kubernetes with --store kubernetes"),
        ("kubernetes", "sqlite:///x.db", True, "use one of cluster-pool, multi-pool, or kubernetes with --store kubernetes"),
    ],
)  # fmt: skip
def test_only_modes_that_are_served_are_advised(mode: str, store: str, strict: bool, advice: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(flags("--ipam", mode, "--store", store), HOME, modes=Served(strict=strict))
    (line,) = caught.value.problems
    assert line == f"ipam: {mode} is not a mode that is served here (flag --ipam); {advice}"


@pytest.mark.parametrize("mode", ["cluster-pool", "kubernetes", "multi-pool"])
def test_modes_that_go_with_the_store_are_taken(mode: str) -> None:
    assert (
        load(flags("--ipam", mode, "--store=kubernetes"), HOME, modes=Served(strict=True)).config.ipam == mode
    )
    # what there is can be listed in any mode
    assert load(flags("--ipam", mode), HOME, modes=Served()).config.ipam == mode


def test_a_mode_that_cannot_be_read_hides_nothing() -> None:
    words = (f"--{POOL}=10.0.0.0/8,10.1.0.0/16", f"--{MASK}=33", "--leader-election-renew-deadline=15s")
    lines = refused("--ipam=nope", *words)
    assert [line.split(":")[0] for line in lines] == ["ipam", POOL, "leader-election-renew-deadline"]
    with pytest.raises(InvalidConfig) as caught:
        load(flags("--ipam=eni", "--store=kubernetes", *words), HOME, modes=Served())
    assert caught.value.problems == tuple(line.replace("nope", "eni") for line in lines)


def test_a_bad_store_hides_nothing_either() -> None:
    with pytest.raises(InvalidConfig) as caught:
        store_of(flags("--store=mysql", "--nodes-gc-interval=3"), HOME)
    assert [line.split(":")[0] for line in caught.value.problems] == ["store", "nodes-gc-interval"]


@pytest.mark.parametrize("flag", ["--config", "--config-dir"])
def test_a_second_file_does_not_silently_win(flag: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=r"given twice, a\.yaml and b\.yaml; keep one of them"):
        flags(flag, "a.yaml", f"{flag}=b.yaml")


def test_help_can_be_printed() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for key in KEYS:
        assert f"--{key.name}" in parser.format_help()


small = st.builds(
    lambda offset, length: parse(f"10.0.0.{offset}/{length}"),
    st.integers(0, 31),
    st.sampled_from([0, 27, 28, 29, 30, 31, 32]),
)


@given(st.lists(small, max_size=8), st.integers(28, 32))
def test_whether_reserved_ranges_leave_a_block_is_what_counting_says(reserved: list[Cidr], mask: int) -> None:
    blocks = [parse(f"10.0.0.{offset}/{mask}") for offset in range(0, 16, 1 << 32 - mask)]
    left = [block for block in blocks if not any(block.overlaps(other) for other in reserved)]
    data = {POOL: "10.0.0.0/28", MASK: str(mask), "cluster-pool-reserved": ",".join(map(str, reserved))}
    assert bool(left) == (outcome(lambda: load(argparse.Namespace(), HOME, data)) == ())


@settings(deadline=None)
@given(st.sampled_from(KEYS), st.text() | st.from_regex(r"[0-9a-z:./, %-]{0,30}", fullmatch=True))
def test_garbage_gives_a_value_or_a_refusal(key: Key, text: str) -> None:
    for result in (
        lambda: load(argparse.Namespace(**{key.field: [text] if key.kind.many else text}), HOME),
        lambda: load(argparse.Namespace(), HOME, {key.name: text, "enable-ipv6": "true"}),
        lambda: load(argparse.Namespace(), HOME | {f"CILIUM_{key.variable}": text}),
    ):
        assert all(line.isprintable() and line for line in outcome(result))
