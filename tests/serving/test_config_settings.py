"""--set path=value: each kind of field, and what is refused."""

import pytest

from nm2trt.errors import InputError
from nm2trt.serving.config_settings import apply_setting

pb = pytest.importorskip("tritonclient.grpc.model_config_pb2")


def config():
    message = pb.ModelConfig(name="m", max_batch_size=8)
    message.instance_group.add(count=1)
    return message


@pytest.mark.parametrize(
    ("text", "read", "expected"),
    [
        pytest.param("optimization.priority=PRIORITY_MAX", lambda c: c.optimization.priority, 1, id="enum"),
        pytest.param("response_cache.enable=true", lambda c: c.response_cache.enable, True, id="bool"),
        pytest.param("instance_group[0].count=4", lambda c: c.instance_group[0].count, 4, id="int32"),
        pytest.param(
            "dynamic_batching.default_queue_policy.default_timeout_microseconds=7",
            lambda c: c.dynamic_batching.default_queue_policy.default_timeout_microseconds,
            7,
            id="nested",
        ),
        pytest.param("instance_group[0].host_policy=a=b", lambda c: c.instance_group[0].host_policy, "a=b", id="equals-in-value"),
        pytest.param("instance_group[1].count=2", lambda c: [g.count for g in c.instance_group], [1, 2], id="append"),
        pytest.param(
            "dynamic_batching.preferred_batch_size=2, 4",
            lambda c: list(c.dynamic_batching.preferred_batch_size),
            [2, 4],
            id="list",
        ),
        pytest.param("instance_group[0].gpus[0]=3", lambda c: list(c.instance_group[0].gpus), [3], id="list-entry"),
        pytest.param("parameters.mode.string_value=fast", lambda c: c.parameters["mode"].string_value, "fast", id="map"),
        pytest.param("metric_tags.team=a b", lambda c: c.metric_tags["team"], "a b", id="map-of-texts"),
        pytest.param(
            "optimization.cuda.busy_wait_events=1", lambda c: c.optimization.cuda.busy_wait_events, True, id="one"
        ),
        pytest.param(
            "model_warmup[0].inputs.x.zero_data=true", lambda c: c.model_warmup[0].inputs["x"].zero_data, True, id="map-in-list"
        ),
    ],
)  # fmt: skip
def test_sets_what_is_named(text, read, expected):
    message = config()
    apply_setting(message, text)
    assert read(message) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", r"is not a setting", id="empty"),
        pytest.param("optimization", r"is not a setting; write PATH=VALUE", id="no-value"),
        pytest.param("a..b=1", r"is not a setting", id="empty-step"),
        pytest.param("a[x]=1", r"is not a setting", id="index-no-number"),
        pytest.param("name=other", r"'name' follows from what is deployed", id="name"),
        pytest.param("max_batch_size=64", r"'max_batch_size' follows from what is deployed and its options", id="batch"),
        pytest.param("input[0].dims=3", r"'input' follows from what is deployed", id="input"),
        pytest.param("dynamic_batch.x=1", r"no field 'dynamic_batch' in ModelConfig .*mean 'dynamic_batching'", id="near"),
        pytest.param("optimization.nothing_like_it=1", r"no field 'nothing_like_it' in ModelOptimizationPolicy", id="deep"),
        pytest.param("optimization=1", r"'optimization' is not one value; set a field of it: graph", id="message"),
        pytest.param("optimization.priority=HIGH", r"'HIGH' is not a value of 'priority'; choose from PRIORITY_DEFAULT", id="enum"),
        pytest.param("instance_group[0].count=many", r"takes a whole number .*not 'many'", id="no-number"),
        pytest.param("instance_group[0].count=99999999999", r"takes a whole number from .* to 2147483647", id="too-large"),
        pytest.param("dynamic_batching.max_queue_delay_microseconds=-1", r"takes a whole number from 0", id="unsigned"),
        pytest.param("response_cache.enable=yes please", r"takes true or false", id="bool"),
        pytest.param("instance_group[0].count.x=1", r"the path goes on after a plain value, at 'x'", id="too-deep"),
        pytest.param("instance_group.count=1", r"'instance_group' is a list; write instance_group\[0\]", id="list"),
        pytest.param("instance_group[5].count=1", r"has 1 entry, so there is no \[5\]", id="beyond"),
        pytest.param("parameters=1", r"'parameters' is a map; name a key", id="map"),
        pytest.param("parameters.mode=1", r"'value' is not one value", id="map-message"),
    ],
)  # fmt: skip
def test_refuses(text, message):
    before = config()
    after = config()
    with pytest.raises(InputError, match=message):
        apply_setting(after, text)
    assert after == before
