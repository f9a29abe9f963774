import pytest

from penstock.errors import InvalidInput
from penstock.targets import Target


@pytest.mark.parametrize(
    ("text", "scheme", "locations", "options"),
    [
        ("file:///data/*.hdf5", "file", ("/data/*.hdf5",), {}),
        ("data/run.hdf5", "file", ("data/run.hdf5",), {}),
        ("file:///a/*.h5,/b/*.h5", "file", ("/a/*.h5", "/b/*.h5"), {}),
        ("grpc://host:50051", "grpc", ("host:50051",), {}),
        ("grpc://a:1,b:2", "grpc", ("a:1", "b:2"), {}),
        ("grpc://sampler:50051?replicas=dns", "grpc", ("sampler:50051",), {"replicas": "dns"}),
    ],
)
def test_targets_are_read(text, scheme, locations, options):
    target = Target.parse(text)
    assert (target.scheme, target.locations, dict(target.options)) == (scheme, locations, options)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://host:1", "unknown scheme 'http'"),
        ("grpc://", "names no place"),
        ("grpc://host", "'host' is not host:port"),
        ("grpc://host:99999", "'host:99999' is not host:port"),
        ("grpc://host:1?colour=red", "unknown option 'colour'"),
        ("grpc:/host:1", "two slashes follow the scheme"),
        ("grpc:host:1", "two slashes follow the scheme"),
    ],
)
def test_a_bad_target_says_what_is_wrong(text, said):
    with pytest.raises(InvalidInput, match="target") as caught:
        Target.parse(text)
    assert said in str(caught.value)
