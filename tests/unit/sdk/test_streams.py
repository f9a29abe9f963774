"""Streams that are left in the middle: nothing of them stays, neither here nor at the server."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from penstock.client.channel import answers, let_go, open_channel
from penstock.targets import Target

METHOD = "/test.Endless/Count"
MESSAGE = b"x" * 100_000


class Endless(grpc.GenericRpcHandler):
    """Sends without end, and tells how many of its calls were called off."""

    def __init__(self):
        self.ended = threading.Semaphore(0)

    def service(self, details):
        return grpc.unary_stream_rpc_method_handler(self.count)

    def count(self, request, context):
        context.add_callback(self.ended.release)
        for _ in range(int(request)):
            yield MESSAGE


@pytest.fixture
def endless():
    return Endless()


@pytest.fixture
def channel(endless):
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([endless])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open_channel(Target.parse(f"grpc://127.0.0.1:{port}")) as channel:
        yield channel
    server.stop(None).wait()


def kept_calls():
    """Calls that gRPC still waits for: each has one such object, which C keeps alive."""
    gc.collect()
    return sum(
        type(found).__name__ == "ReceiveStatusOnClientOperation" for found in gc.get_objects()
    )


def test_nothing_stays_of_streams_that_are_left_in_the_middle(channel, endless):
    call = channel.unary_stream(METHOD)
    before = kept_calls()
    for _ in range(5):
        for message in answers(call(b"1000000")):
            assert message == MESSAGE
            # What is counted is there while a call is on.
            assert kept_calls() == before + 1
            break
        assert endless.ended.acquire(timeout=10)
    assert kept_calls() == before


def test_nothing_stays_of_a_stream_that_another_thread_calls_off(channel, endless):
    """It was between two messages then, and finds out when it asks for the next one."""
    call = channel.unary_stream(METHOD)
    before = kept_calls()
    for _ in range(5):
        stream = call(b"1000000")
        messages = answers(stream)
        assert next(messages) == MESSAGE
        caller = threading.Thread(target=stream.cancel)
        caller.start()
        caller.join()
        with pytest.raises(grpc.RpcError):
            next(messages)
        assert endless.ended.acquire(timeout=10)
    del stream
    assert kept_calls() == before


def test_a_stream_that_has_ended_can_be_let_go(channel):
    stream = channel.unary_stream(METHOD)(b"3")
    assert list(answers(stream)) == [MESSAGE] * 3
    let_go(stream)
    assert stream.code() is grpc.StatusCode.OK


def test_nothing_stays_of_a_stream_whose_channel_closes(endless):
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([endless])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    before = kept_calls()
    channel = open_channel(Target.parse(f"grpc://127.0.0.1:{port}"))
    messages = answers(channel.unary_stream(METHOD)(b"1000000"))
    assert next(messages) == MESSAGE
    channel.close()
    messages.close()
    assert kept_calls() == before
    server.stop(None).wait()
