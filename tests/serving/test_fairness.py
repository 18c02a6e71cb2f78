"""A client that asks, sends or keeps much holds up no other."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_questions import question, until
from slicesight.serving import answering, chat_routes, fairness
from slicesight.serving.fairness import FairQueue, FairSlots, client_of
from slicesight.serving.refusals import Refusal
from slicesight.serving.scan_store import ScanStore


def filled(max_items, **counts):
    queue = FairQueue(max_items)
    for client, count in counts.items():
        for number in range(count):
            queue.put(client, f"{client}{number}")
    return queue


def test_clients_take_turns_and_each_ones_own_keep_their_order():
    queue = filled(9, a=4, b=1, c=2)
    assert [queue.take() for _ in range(8)] == ["a0", "b0", "c0", "a1", "c1", "a2", "a3", None]


def test_a_full_queue_makes_room_for_who_has_less_at_the_cost_of_who_has_most():
    queue = filled(5, a=4, b=1)
    assert not queue.has_room("a")
    assert queue.put("c", "c0") == "a3"
    assert queue.put("c", "c1") == "a2"
    assert not queue.has_room("c")
    assert len(queue) == 5


def test_who_may_have_no_turn_is_passed_over():
    queue = filled(5, a=2, b=1)
    assert queue.take(lambda client: client != "a") == "b0"
    assert queue.take(lambda client: client != "a") is None
    assert len(queue) == 2


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
@settings(deadline=None, max_examples=200)
def test_nothing_is_lost_or_kept_beyond_the_limit(steps):
    queue, inside, number = FairQueue(5), set(), 0
    for client, is_put in steps:
        if is_put and queue.has_room(client):
            number += 1
            inside.add(f"{client}{number}")
            inside.discard(queue.put(client, f"{client}{number}"))
        elif not is_put:
            inside.discard(queue.take())
        assert set(queue.all_items()) == inside
        assert len(queue) <= 5


def test_who_asked_lately_counts_once_and_what_was_done_for_it_is_forgotten_by_and_by(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(fairness.time, "monotonic", lambda: now[0])
    use = fairness.ClientUse(30)
    for client in "abab":
        use.note(client, 2)
    assert (len(use), use.of("a"), use.of("c")) == (2, 4, 0)
    now[0] += 15
    use.note("a")
    assert use.of("a") == pytest.approx(4 / 2**0.5)
    now[0] += 16
    assert len(use) == 1, "b has not asked for 31 s"
    assert use.of("b") == 0
    now[0] += 30
    assert len(use) == 0


def test_two_slow_jobs_of_one_client_leave_a_place_for_another():
    async def run():
        slots, order, release = FairSlots(2), [], asyncio.Event()

        async def work(client, name, *, waits):
            async with slots.slot(client):
                order.append(name)
                if waits:
                    await release.wait()

        slow = [asyncio.create_task(work("a", f"slow{number}", waits=True)) for number in range(3)]
        await asyncio.sleep(0)
        await asyncio.wait_for(work("b", "quick", waits=False), 5)
        assert order == ["slow0", "quick"]
        release.set()
        await asyncio.gather(*slow)

    asyncio.run(run())


def test_a_client_is_an_address_and_of_ipv6_its_network():
    of = lambda host: client_of({"type": "http", "client": (host, 1)})  # noqa: E731
    assert of("10.0.0.1") != of("10.0.0.2")
    assert of("10.0.0.1") == of("::ffff:10.0.0.1")
    assert of("2001:db8::1") == of("2001:db8::ffff") != of("2001:db8:0:1::1")
    assert "10.0" not in of("10.0.0.1")
    assert client_of({"type": "http", "client": None}) == of("")


@pytest.fixture
def store(tmp_path):
    store = ScanStore(folder=tmp_path, max_volumes=6, max_client_volumes=4, max_bytes=10_000)
    yield store
    store.close()


def keep(store, client, *, asked=False, age_s=0, num_bytes=10):
    with store.receiving(client, num_bytes=num_bytes) as folder:
        (folder / "scan.json").write_bytes(b" " * num_bytes)
        volume_id = store.add(folder, {"client": client})
    if asked:
        (store.volumes / volume_id / "answers/chatcmpl-x.json").write_text("{}")
    used = time.time() - age_s
    os.utime(store.volumes / volume_id / "scan.json", (used, used))
    return volume_id


def code_of(store, client, **settings):
    with pytest.raises(Refusal) as refused:
        keep(store, client, **settings)
    return refused.value.status_code, refused.value.code


def test_one_client_cannot_fill_the_shelf(store):
    for _ in range(4):
        keep(store, "a", asked=True)
    assert code_of(store, "a") == (429, "client_volumes")
    assert keep(store, "b")


def test_what_was_never_asked_makes_room_oldest_of_the_largest_first(store):
    asked = keep(store, "a", asked=True, age_s=1000)
    old, new = keep(store, "a", age_s=900), keep(store, "a", age_s=800)
    others = [keep(store, "b", age_s=950), keep(store, "c", asked=True), keep(store, "d", asked=True)]
    added = keep(store, "e")
    assert store.volume_ids() == {asked, new, *others, added}
    assert old not in store.volume_ids()


def test_a_scan_just_brought_is_not_put_away_for_another(store):
    for client in ("a", "a", "b", "b", "c", "c"):
        keep(store, client)
    assert code_of(store, "d") == (429, "too_many_volumes")


def test_the_disk_has_a_budget(store):
    asked = keep(store, "a", asked=True, num_bytes=6000)
    idle = keep(store, "b", age_s=1000, num_bytes=3000)
    assert keep(store, "c", num_bytes=3000)
    assert store.volume_ids() >= {asked}
    assert idle not in store.volume_ids()
    assert code_of(store, "d", num_bytes=3000) == (507, "no_space")


def test_uploads_of_one_client_on_their_way_are_bounded(store):
    with ExitStack() as open_uploads:
        store.max_client_volumes = store.max_volumes = 100
        for _ in range(8):
            open_uploads.enter_context(store.receiving("a"))
        assert code_of(store, "a") == (429, "client_uploads")
        assert keep(store, "b")
    assert keep(store, "a")


def test_a_first_question_is_taken_beside_a_full_batch_of_another_client(make_client, lend, held, monkeypatch):
    """Addresses are told apart by a header here, as a proxy would tell them."""
    for module in (answering, chat_routes):
        monkeypatch.setattr(module, "client_of", lambda scope: dict(scope["headers"])[b"x-who"].decode())
    client = make_client(batch_size=1, max_waiting=4)
    volume_id = lend(client.app.state.server)
    thread = client.app.state.server.thread
    take, taken = thread._take, []

    def told():
        num_rows, request = thread.num_rows, take()
        if request is not None:
            taken.append((request.client, num_rows))
        return request

    monkeypatch.setattr(thread, "_take", told)

    def ask(who):
        body = question(volume_id, max_tokens=8)
        return client.post("/v1/chat/completions", json=body, headers={"x-who": who}).status_code

    held.clear()
    with ThreadPoolExecutor(6) as pool:
        hogs = [pool.submit(ask, "hog")]
        assert until(lambda: taken == [("hog", 0)])
        hogs += [pool.submit(ask, "hog") for _ in range(4)]
        assert until(lambda: thread.num_waiting == 4)
        guest = pool.submit(ask, "guest")
        assert until(lambda: 429 in [hog.result() for hog in hogs if hog.done()]), "the guest has a hog's place"
        held.set()
        assert guest.result() == 200
    assert sorted(hog.result() for hog in hogs) == [200] * 4 + [429]
    assert taken[:2] == [("hog", 0), ("guest", 1)]
    # whether a hog's next question is the first beside the guest's or finds no row depends on whose answer ends first
    assert [client for client, _ in taken[2:]] == ["hog"] * 3
    assert all(rows <= 1 for _, rows in taken), "at most one client's first question beside a full batch"


def test_a_client_has_the_batch_to_itself_only_while_nobody_else_asks(make_client, lend, monkeypatch):
    for module in (answering, chat_routes):
        monkeypatch.setattr(module, "client_of", lambda scope: dict(scope["headers"])[b"x-who"].decode())
    client = make_client(batch_size=8, max_waiting=32)
    volume_id = lend(client.app.state.server)
    thread = client.app.state.server.thread
    take, most = thread._take, {"hog": 0}

    def watched():
        rows = [one.request.client for one in thread._batching.open.values()]
        most["hog"] = max(most["hog"], rows.count("hog"))
        return take()

    monkeypatch.setattr(thread, "_take", watched)

    def ask(who):
        body = question(volume_id, max_tokens=12, temperature=2.0)
        return client.post("/v1/chat/completions", json=body, headers={"x-who": who}).status_code

    def together(*names):
        most["hog"] = 0
        thread._waiting.take, hold = (lambda may: None), thread._waiting.take
        with ThreadPoolExecutor(len(names)) as pool:
            jobs = [pool.submit(ask, who) for who in names]
            assert until(lambda: thread.num_waiting == len(names))
            thread._waiting.take = hold
            with thread._news:
                thread._news.notify()
            assert {job.result() for job in jobs} == {200}
        return most["hog"]

    assert together(*["hog"] * 12) == 8
    assert together(*["hog"] * 12, "a", "b", "c") == 2


def test_while_a_light_clients_question_is_at_work_none_of_a_heavy_one_begins(make_client, lend, monkeypatch):
    client = make_client(batch_size=16, max_waiting=32)
    volume_id = lend(client.app.state.server)
    thread = client.app.state.server.thread
    now = [time.monotonic()]
    monkeypatch.setattr(fairness.time, "monotonic", lambda: now[0])
    request = SimpleNamespace(client="heavy", since=now[0], is_cancelled=False)
    at_work = SimpleNamespace(request=SimpleNamespace(client="light"))
    with thread._news:
        thread._use.note("heavy", 200)
        thread._use.note("light", 1)
        monkeypatch.setattr(thread, "_batching", SimpleNamespace(open={0: at_work}, cancel_all=lambda: None))
        thread._waiting._items["heavy"] = [request]
    assert thread._take() is None, "it waits"
    for name in ("equal", "heavy"):
        at_work.request.client = name
        thread._use.note(name, 0 if name == "heavy" else 200)
        assert thread._take() is request, f"beside {name} it does not"
        thread._waiting._items["heavy"] = [request]
    at_work.request.client = "light"
    assert thread._take() is None
    now[0] += 1.1
    assert thread._take() is request, "nor for ever"
    assert client.get(f"/v1/volumes/{volume_id}").status_code == 200
