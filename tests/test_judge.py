"""The table of the judge, and what must hold for every sequence of observations."""

from collections.abc import Iterable, Iterator
from itertools import cycle, islice

from hypothesis import given
from hypothesis import strategies as st

from probe import judge
from probe.model import (
    Condition,
    Listener,
    Observation,
    Outcome,
    Policy,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Transition,
    Verdict,
    Work,
)

POLICY = Policy()
TARGET = Target(8080)


def listener(length: int = 0, limit: int | None = 5, cookie: int = 1) -> Listener:
    return Listener(2, "0.0.0.0", 8080, cookie, length, limit, 0, 7, 1000)


def sampled(
    at: float,
    length: int = 0,
    *,
    limit: int | None = 5,
    cookie: int = 1,
    accepts: int | None = None,
    head: tuple[int, ...] = (),
    accepted: bool = False,
    own_queued_for: float | None = None,
) -> Observation:
    sample = Sample((listener(length, limit, cookie),), accepts, head)
    return Observation(at, sample, accepted=accepted, own_queued_for=own_queued_for)


def nobody(at: float) -> Observation:
    return Observation(at, Sample())


def blind(at: float) -> Observation:
    return Observation(at, Sample(error="sock_diag refused"))


def good(at: float) -> Observation:
    return Observation(at, round_trip=RoundTrip(at, Outcome.OK, accepted=True))


def bad(at: float, stage: Stage = Stage.UNANSWERED) -> Observation:
    return Observation(at, round_trip=RoundTrip(at, Outcome.FAILED, stage, "no answer"))


class Run:
    """A judge fed by hand, which keeps every verdict and transition."""

    def __init__(self, policy: Policy = POLICY, remembered: Iterable[int] = ()) -> None:
        self.policy = policy
        self.state = judge.initial(TARGET, 0.0, remembered)
        self.transitions: list[Transition] = []

    def feed(self, *observations: Observation) -> Verdict:
        for observation in observations:
            self.state, transition = judge.step(self.state, observation, self.policy)
            if transition is not None:
                self.transitions.append(transition)
        return self.state.verdict


def healthy_run(policy: Policy = POLICY) -> Run:
    run = Run(policy)
    verdict = run.feed(sampled(0, accepts=0), good(0.1))
    assert (verdict.condition, verdict.ready, verdict.started) == (Condition.HEALTHY, True, True)
    return run


# --- the table


def test_not_ready_until_the_first_good_round_trip() -> None:
    run = Run()
    assert run.state.verdict.ready is False
    verdict = run.feed(sampled(0), sampled(1))
    assert (verdict.condition, verdict.reason) == (Condition.UNKNOWN, Reason.STARTING)
    assert (verdict.ready, verdict.live) == (False, True)
    assert run.feed(good(1.1)).ready


def test_stalled_after_three_seconds_without_an_accept() -> None:
    run = healthy_run()
    verdict = run.feed(*(sampled(at, 1, accepts=0) for at in (1, 2, 3)))
    assert (verdict.condition, verdict.ready) == (Condition.SUSPECT, True)
    verdict = run.feed(sampled(4, 6, accepts=0))
    assert (verdict.condition, verdict.reason) == (
        Condition.UNHEALTHY,
        Reason.ACCEPT_QUEUE_STALLED,
    )
    assert not verdict.ready
    assert verdict.message == "8080 accept queue stalled: 6 of 5 queued, nothing accepted for 3 s"


def test_the_front_of_the_queue_proves_a_stall_while_other_listeners_accept() -> None:
    run = healthy_run()
    verdict = run.feed(*(sampled(at, 2, accepts=10 * at, head=(77,)) for at in range(1, 6)))
    assert verdict.reason is Reason.ACCEPT_QUEUE_STALLED


def test_accepts_elsewhere_without_a_front_prove_nothing() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 2, accepts=10 * at) for at in range(1, 60)))
    assert run.state.watches[0].stalled_for == 0
    assert run.state.verdict.ready


def test_a_new_front_and_a_shorter_queue_end_a_stall() -> None:
    for sign in (
        sampled(6, 2, accepts=99, head=(78,)),
        sampled(6, 1, accepts=99),
        sampled(6, 2, accepts=99, accepted=True),
    ):
        run = healthy_run()
        run.feed(*(sampled(at, 2, accepts=10 * at, head=(77,)) for at in range(1, 6)))
        assert run.state.verdict.reason is Reason.ACCEPT_QUEUE_STALLED
        assert run.feed(sign).reason is None


def test_saturated_takes_every_sample_of_five_seconds() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 5, accepts=10 * at) for at in range(1, 6)))
    assert run.state.verdict.condition is Condition.SUSPECT
    verdict = run.feed(sampled(6, 5, accepts=60))
    assert (verdict.reason, verdict.ready) == (Reason.ACCEPT_QUEUE_SATURATED, False)
    assert verdict.message == "8080 accept queue saturated: 5 of 5 queued for 5 s"

    run = healthy_run()
    lengths = [5, 5, 5, 5, 4, 5, 5, 5, 5, 5]
    run.feed(*(sampled(at, length, accepts=10 * at) for at, length in enumerate(lengths, 1)))
    assert run.state.verdict.ready


def test_saturated_recovers_after_two_seconds_below_half() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 5, accepts=10 * at) for at in range(1, 7)))
    assert not run.feed(sampled(7, 3, accepts=70)).ready
    assert not run.feed(sampled(8, 2, accepts=80), sampled(9, 2, accepts=90)).ready
    assert run.feed(sampled(10, 1, accepts=100)).ready


def test_a_busy_listener_stays_live_for_ever() -> None:
    run = healthy_run()
    for at in range(1, 600):
        verdict = run.feed(sampled(at, 6, accepts=at, head=(at,)), bad(at + 0.5, Stage.SYN_DROPPED))
        assert verdict.live
    assert verdict.reason is Reason.ACCEPT_QUEUE_SATURATED


def test_live_fails_after_thirty_seconds_of_stall() -> None:
    run = healthy_run()
    lives = [run.feed(sampled(at, 1, accepts=0)).live for at in range(1, 33)]
    assert lives == [True] * 30 + [False] * 2
    assert run.feed(sampled(33, 0, accepts=1)).live


def test_a_listener_that_has_never_accepted_stays_live() -> None:
    run = Run()
    verdict = run.feed(*(sampled(at, 1, accepts=0) for at in range(100)))
    assert (verdict.reason, verdict.live) == (Reason.ACCEPT_QUEUE_STALLED, True)


def test_what_an_earlier_life_saw_accept_is_not_forgiven() -> None:
    run = Run(remembered=[1])
    assert not run.feed(*(sampled(at, 1, accepts=0) for at in range(100))).live


def test_two_round_trips_in_a_row_make_it_not_ready_and_one_good_one_ready() -> None:
    run = healthy_run()
    assert run.feed(bad(1)).condition is Condition.SUSPECT
    verdict = run.feed(bad(2))
    assert (verdict.reason, verdict.stage) == (Reason.ROUND_TRIP_FAILED, Stage.UNANSWERED)
    assert verdict.message == "8080 round trip failed: unanswered: no answer, 2 times in a row"
    assert run.feed(good(3)).ready


def test_our_own_waiting_connection_counts_as_failed_round_trips() -> None:
    run = healthy_run()
    run.feed(bad(3, Stage.QUEUED))
    assert run.state.verdict.ready
    verdict = run.feed(sampled(4.5, 3, limit=4096, accepts=40, own_queued_for=4.5))
    assert (verdict.reason, verdict.stage) == (Reason.ROUND_TRIP_FAILED, Stage.QUEUED)


def test_a_status_code_never_fails_live() -> None:
    run = healthy_run(POLICY._replace(live_on=frozenset({"unanswered", "vanished"})))
    for at in range(1, 100):
        assert run.feed(sampled(at, accepts=at), bad(at, Stage.STATUS)).live


def test_live_on_unanswered_and_vanished_are_opt_ins() -> None:
    for optin, later in (("unanswered", bad), ("vanished", nobody)):
        for live_on, live in ((frozenset[str](), True), (frozenset({optin}), False)):
            run = healthy_run(POLICY._replace(live_on=live_on))
            assert run.feed(*(later(at) for at in range(1, 40))).live is live


def test_nobody_listening_takes_two_looks() -> None:
    run = healthy_run()
    assert run.feed(nobody(1)).condition is Condition.SUSPECT
    verdict = run.feed(nobody(1.25))
    assert (verdict.condition, verdict.reason) == (Condition.UNHEALTHY, Reason.NOT_LISTENING)
    assert not verdict.started


def test_late_to_listen_is_starting_not_an_incident() -> None:
    run = Run()
    verdict = run.feed(*(nobody(at) for at in range(100)))
    assert (verdict.condition, verdict.reason) == (Condition.UNKNOWN, Reason.NOT_LISTENING)
    assert verdict.incident is None
    assert verdict.live


def test_a_graceful_replacement_stays_ready_but_is_started_anew() -> None:
    run = healthy_run()
    verdict = run.feed(sampled(1, cookie=2))
    assert (verdict.ready, verdict.started) == (True, False)
    assert run.feed(good(1.5)).started


def test_a_failure_that_began_with_the_old_listener_is_not_held_against_the_new() -> None:
    run = healthy_run()
    run.feed(sampled(5, cookie=2), bad(4.5), bad(4.9))
    assert run.state.failures == 0


def test_a_stall_does_not_pass_to_the_next_listener() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 6, accepts=0) for at in range(1, 40)))
    assert not run.state.verdict.live
    verdict = run.feed(sampled(40, 0, cookie=2, accepts=0))
    assert (verdict.live, verdict.ready, verdict.reason) == (True, False, Reason.STARTING)


def test_one_dead_listener_of_four_decides() -> None:
    run = healthy_run()

    def group(at: float) -> Observation:
        rows = tuple(listener(3 if cookie == 4 else 0, 128, cookie) for cookie in (1, 2, 3, 4))
        return Observation(at, Sample(rows, accepts=int(10 * at), head=(99,)))

    verdict = run.feed(*(group(at) for at in range(1, 6)))
    assert verdict.reason is Reason.ACCEPT_QUEUE_STALLED
    assert verdict.message.endswith("3 of 128 queued, nothing accepted for 4 s (1 of 4 listeners)")


def test_the_front_is_laid_to_the_listener_that_has_waited_longest() -> None:
    """Not to a busy one whose queue happens to be longer."""
    run = healthy_run()
    for at in range(1, 6):
        rows = (listener(2, 128), listener(40 + at % 2, 128, cookie=2))
        run.feed(Observation(at, Sample(rows, accepts=10 * at, head=(99,))))
    assert [watch.stalled_for >= 3 for watch in run.state.watches] == [True, False]


def test_listeners_that_stall_together_do_not_pass_the_stall_on_as_they_overtake_one_another() -> (
    None
):
    """As recorded of a group of three that was stopped under traffic, beside a busy port."""
    run = healthy_run()
    lengths = ((2, 1, 3), (4, 5, 4), (6, 5, 7), (9, 9, 8), (10, 12, 11), (14, 13, 15))
    for at, group in enumerate(lengths, 1):
        rows = tuple(listener(length, 64, cookie) for cookie, length in enumerate(group))
        run.feed(Observation(at, Sample(rows, accepts=10 * at, head=(99,))))
    assert sorted(watch.stalled_for for watch in run.state.watches) == [0, 0, 5]
    assert run.state.verdict.reason is Reason.ACCEPT_QUEUE_STALLED


def test_a_frozen_sidecar_holds_its_own_absence_against_nobody() -> None:
    run = healthy_run()
    run.feed(sampled(1, 1, accepts=0), sampled(100, 1, accepts=0))
    assert run.state.watches[0].stalled_for == 0


def test_without_limits_nothing_is_saturated() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 500, limit=None, accepts=10 * at, cookie=1) for at in range(1, 20)))
    assert run.state.verdict.ready


def test_limit_zero_is_full_with_one_entry() -> None:
    assert listener(1, 0).full
    assert not listener(0, 0).full
    assert listener(1, 0).saturation == 1.0


def test_idle_is_time_in_one_piece() -> None:
    """A full queue that moves every other second: each pause is short, whatever they add up to."""
    for rows in ((listener(6),), (listener(6), listener(6, cookie=2))):
        run = healthy_run()
        for turn in range(1, 400):
            verdict = run.feed(Observation(turn / 4, Sample(rows, accepts=turn // 8)))
            assert verdict.live
            assert all(watch.stalled_for < 2 for watch in run.state.watches)
        assert verdict.reason is Reason.ACCEPT_QUEUE_SATURATED


def test_an_accept_elsewhere_does_not_interrupt_what_the_front_proves() -> None:
    run = healthy_run()
    fronts = {1: (77,), 2: (), 3: (77,), 4: (), 5: (77,)}
    run.feed(*(sampled(at, 2, accepts=at, head=head) for at, head in fronts.items()))
    assert run.state.watches[0].stalled_for == 4
    assert run.state.verdict.reason is Reason.ACCEPT_QUEUE_STALLED


def test_a_count_that_is_missed_once_does_not_interrupt_a_stall() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 2, accepts=None if at == 3 else 0) for at in range(1, 5)))
    assert run.state.watches[0].stalled_for == 3


def test_much_that_is_proven_at_once_is_a_suspicion_first() -> None:
    """The count is missed for a while, and then turns out not to have moved since."""
    run = healthy_run()
    run.feed(*(sampled(at, 1, accepts=0 if at == 1 else None) for at in range(1, 9)))
    verdict = run.feed(sampled(9, 1, accepts=0))
    assert (verdict.condition, verdict.ready) == (Condition.SUSPECT, True)
    assert run.feed(sampled(10, 1, accepts=0)).reason is Reason.ACCEPT_QUEUE_STALLED


def test_a_frozen_sidecar_goes_on_counting_where_it_stood() -> None:
    run = healthy_run()
    run.feed(*(sampled(at, 1, accepts=0, head=(77,)) for at in (1, 2, 3, 100, 101)))
    assert run.state.watches[0].stalled_for == 3


def test_a_short_interval_bears_a_sidecar_that_is_short_of_cpu() -> None:
    """Looks 400 ms apart instead of 100: stalls and saturation are seen all the same."""
    policy = POLICY._replace(interval=0.1)
    run = healthy_run(policy)
    verdict = run.feed(*(sampled(turn * 0.4, 1, limit=128, accepts=0) for turn in range(1, 10)))
    assert verdict.reason is Reason.ACCEPT_QUEUE_STALLED
    run = healthy_run(policy)
    verdict = run.feed(*(sampled(turn * 0.4, 6, accepts=turn) for turn in range(1, 15)))
    assert verdict.reason is Reason.ACCEPT_QUEUE_SATURATED


def test_the_front_of_another_group_is_no_measure() -> None:
    """One listener of two is left, with a queue and a head of its own: it has accepted nothing."""
    run = Run()
    both = (listener(2, cookie=1), listener(3, cookie=2))
    run.feed(Observation(1, Sample(both, 10, (77,))))
    run.feed(*(sampled(at, 3, cookie=2, accepts=10 * at, head=(78,)) for at in range(2, 60)))
    assert not run.state.watches[0].accepted
    assert run.state.verdict.live


def test_what_the_last_listener_accepted_is_no_credit_to_the_next() -> None:
    run = healthy_run()
    run.feed(sampled(1, 1, cookie=2, accepts=0, accepted=True))
    assert run.feed(*(sampled(at, 1, cookie=2, accepts=0) for at in range(2, 60))).live


def test_a_long_wait_at_once_is_one_failure() -> None:
    run = healthy_run()
    verdict = run.feed(sampled(1, 1, limit=128, accepts=40, own_queued_for=60))
    assert (verdict.condition, verdict.ready) == (Condition.SUSPECT, True)


# --- what a restart would cost


def weighed(run: Run, works: Iterable[Work | None], *, since: int = 1) -> Iterator[Verdict]:
    """A stall, a sample a second; with each that is not None, a walk has seen so much work."""
    for at, work in enumerate(works, since):
        yield run.feed(sampled(at, 3, accepts=0)._replace(work=work))


def lives(works: Iterable[Work | None], policy: Policy = POLICY) -> list[bool]:
    return [verdict.live for verdict in weighed(healthy_run(policy), works)]


SERVED = Work(32, served=32, sent_ago=0.2, resets=0)
WORKING = Work(3, working=3, resets=0)
LEAKED = Work(6, sent_ago=90.0, resets=0)


def test_what_is_served_is_not_cut_off() -> None:
    run = healthy_run()
    *_, verdict = weighed(run, [SERVED] * 1000)
    assert (verdict.ready, verdict.live) == (False, True)
    assert verdict.kept.startswith("32 connections are served")
    assert verdict.message == (
        "8080 accept queue stalled: 3 of 5 queued, nothing accepted for 999 s; live: "
        "32 connections are served, until none is for 30 s or a free place is not taken for 30 s"
    )


def test_that_it_is_kept_live_is_told_once() -> None:
    """Whatever it is kept for at the moment."""
    run = healthy_run()
    for _ in weighed(run, [SERVED, WORKING, SERVED] * 60):
        pass
    assert [(t.after.condition, bool(t.after.kept)) for t in run.transitions[1:]] == [
        (Condition.SUSPECT, False),
        (Condition.UNHEALTHY, False),
        (Condition.UNHEALTHY, True),
    ]


def test_once_nobody_was_served_for_live_after_it_is_dead() -> None:
    """The walk 41 s after the fault has seen a byte that was sent 5 s before: the last one."""
    walks = [SERVED._replace(sent_ago=5.0 + ago) if ago % 10 == 0 else None for ago in range(41)]
    assert lives([SERVED] * 40 + walks) == [True] * 65 + [False] * 16


def test_walks_that_are_late_are_no_silence_of_those_who_are_served() -> None:
    """As recorded on a machine with eighty processes that wanted its two cores: one walk took 60 s,
    the next one 120 s, and all the while the twenty places of a server were in use.
    """
    late = [SERVED, *[None] * 59, SERVED, *[None] * 119]
    assert all(lives([SERVED] * 600 + late + [SERVED._replace(sent_ago=29.0)]))
    assert lives([SERVED] * 600 + late + [SERVED._replace(sent_ago=31.0)])[-1] is False
    never_again = lives([SERVED] * 40 + [None] * 320)
    assert never_again == [True] * 339 + [False] * 21


def test_leaked_connections_keep_nothing_live() -> None:
    assert lives([LEAKED] * 40) == [True] * 30 + [False] * 10


def test_work_is_waited_for_five_minutes() -> None:
    run = healthy_run()
    verdicts = list(weighed(run, [WORKING] * 310))
    assert [verdict.live for verdict in verdicts] == [True] * 300 + [False] * 10
    assert verdicts[60].message.endswith("; live: 3 requests are worked on, until 300 s")
    assert verdicts[-1].kept == ""


def test_how_long_it_is_waited_for_is_a_setting_and_never_less_than_live_after() -> None:
    assert lives([WORKING] * 80, POLICY._replace(live_after_busy=60)).count(True) == 60
    assert (
        lives([WORKING] * 80, POLICY._replace(live_after=50, live_after_busy=10)).count(True) == 50
    )


def test_a_process_that_was_born_since_may_be_starting() -> None:
    run = healthy_run()
    booting = LEAKED._replace(youngest_owner=12.0)
    verdicts = list(weighed(run, [booting] * 310))
    assert [verdict.live for verdict in verdicts] == [True] * 300 + [False] * 10
    assert "a process that holds the listener is 12 s old" in verdicts[60].kept


def test_the_proven_exit_of_who_accepted_outweighs_all() -> None:
    gone = SERVED._replace(working=3, youngest_owner=1.0, acceptors_gone=True)
    assert lives([gone] * 40) == [True] * 30 + [False] * 10


def test_that_who_accepted_lives_keeps_nothing_live() -> None:
    assert not lives([LEAKED._replace(acceptors_gone=False)] * 40)[-1]


def test_a_place_that_became_free_and_was_not_taken_is_no_limit() -> None:
    """At 40 s one of 32 has ended, 30 s later it is dead, and the message says why."""
    run = healthy_run()
    works = [SERVED] * 39 + [SERVED._replace(accepted=31, served=31)] * 40
    verdicts = list(weighed(run, works))
    assert [verdict.live for verdict in verdicts] == [True] * 69 + [False] * 10
    assert verdicts[-1].message.endswith("; a place has been free for 39 s")


def test_a_place_that_was_taken_is_none() -> None:
    """Each minute one ends and the next is accepted: an application that is at its limit."""
    run = healthy_run()
    for turn in range(10):
        start = 1 + 60 * turn
        for verdict in weighed(run, [SERVED] * 50 + [SERVED._replace(accepted=31)], since=start):
            assert verdict.live
        assert run.feed(sampled(start + 51, 2, accepts=0)).live
    assert run.state.freed_at is None


def test_a_connection_that_was_reset_may_have_a_place_still() -> None:
    works = [SERVED] * 39 + [SERVED._replace(accepted=31, resets=1)] * 60
    assert all(lives(works))
    assert not all(lives([*works, *[SERVED._replace(accepted=30, resets=1)] * 40]))


def test_a_walk_during_which_connections_were_reset_is_no_measure() -> None:
    """The next one is measured by the one before it."""
    torn = SERVED._replace(accepted=30, resets=None)
    assert all(lives([*[SERVED] * 39, torn, *[SERVED._replace(accepted=31, resets=1)] * 60]))
    assert not all(lives([*[SERVED] * 39, torn, *[SERVED._replace(accepted=30, resets=1)] * 60]))


def test_a_walk_that_missed_some_proves_nothing() -> None:
    works = [SERVED] * 39 + [SERVED._replace(accepted=31)] * 5 + [SERVED] * 60
    assert all(lives(works))


def test_an_idle_connection_that_ends_frees_no_worker() -> None:
    """Three workers are at work, and a connection kept alive times out. One ends: that is one."""
    both = Work(8, sent_ago=1.0, served=5, working=3, resets=0)
    idle_ended = both._replace(accepted=7, served=4)
    assert lives([both] * 39 + [idle_ended] * 300) == [True] * 300 + [False] * 39
    one_ended = both._replace(accepted=7, working=2)
    assert lives([both] * 39 + [one_ended] * 60) == [True] * 69 + [False] * 30


def test_of_several_listeners_no_place_is_one_s_own() -> None:
    """One of two is stalled; the other accepts, and its connections come and go."""
    run = healthy_run()
    for at in range(1, 200):
        rows = (listener(3, 128), listener(at % 3, 128, cookie=2))
        sample = Sample(rows, accepts=at, head=(99,))
        work = SERVED._replace(accepted=50 - at % 7)
        assert run.feed(Observation(at, sample, work=work)).live
    assert run.state.watches[0].stalled_for > 100


def test_what_cannot_be_seen_is_judged_as_ever() -> None:
    assert lives([None] * 40) == [True] * 30 + [False] * 10


def test_of_the_time_in_which_we_were_frozen_nothing_counts() -> None:
    run = healthy_run()
    for _ in weighed(run, [SERVED] * 40):
        pass
    assert run.feed(sampled(400, 3, accepts=0)).live
    assert run.feed(sampled(401, 3, accepts=0)).live


def test_when_a_walk_is_worth_its_price() -> None:
    """Once when a stall is one, and from shortly before it would matter; never of a late start."""
    run = healthy_run()
    due = []
    for at in range(1, 40):
        run.feed(sampled(at, 3, accepts=0))
        if judge.weighs(run.state, POLICY):
            due.append(at)
            run.feed(sampled(at, 3, accepts=0)._replace(work=SERVED))
    assert due == [4, *range(26, 40)]
    late = Run()
    late.feed(*(sampled(at, 1, accepts=0) for at in range(100)))
    assert not judge.weighs(late.state, POLICY)


# --- where nothing is ever asked


def unasked(
    at: float, length: int = 0, *, work: Work | None = None, cookie: int = 1
) -> Observation:
    seen = sampled(at, length, accepts=0, cookie=cookie)
    return seen._replace(unasked=True, work=work)


def unasked_lives(first: Work | None, then: Work, *, cookie: int = 1) -> list[bool]:
    """Of a stall that a walk sees each second; `first` saw the listener when it was new."""
    run = Run()
    run.feed(unasked(0), unasked(0.5, work=first))
    works = (unasked(at, 1, work=then, cookie=cookie) for at in range(1, 41))
    return [run.feed(observation).live for observation in works]


def test_who_is_never_asked_is_ready_when_it_listens() -> None:
    run = Run()
    verdict = run.feed(unasked(0))
    assert (verdict.condition, verdict.ready, verdict.started) == (Condition.HEALTHY, True, True)
    assert verdict.message == (
        "8080 healthy: 0 of 5 queued, never asked, so whether it answers is not known"
    )
    verdict = run.feed(*(unasked(at, 1) for at in range(1, 5)))
    assert (verdict.reason, verdict.ready) == (Reason.ACCEPT_QUEUE_STALLED, False)
    assert run.feed(unasked(5)).ready
    verdict = run.feed(nobody(6), nobody(7))
    assert (verdict.reason, verdict.ready, verdict.started) == (Reason.NOT_LISTENING, False, False)


def test_who_is_never_asked_dies_of_a_stall_once_it_is_seen_to_have_accepted() -> None:
    """By a connection that is there now, and was not when the listener was new."""
    none, some = Work(0, resets=0), Work(2, resets=0)
    assert unasked_lives(none, some) == [True] * 30 + [False] * 10
    assert all(unasked_lives(none, none))
    assert all(unasked_lives(some, Work(3, resets=0)))  # Another listener may have accepted those.
    assert all(unasked_lives(None, some))
    assert all(unasked_lives(none, some, cookie=2))


def test_when_a_walk_is_worth_its_price_where_nothing_is_asked() -> None:
    run = Run()
    due = []
    for at, length in enumerate([0, 0, 0, *[1] * 34]):
        run.feed(unasked(at, length))
        if judge.weighs(run.state, POLICY):
            due.append(at)
            run.feed(unasked(at, length, work=Work(0)))
    assert due == [0, 6, *range(28, 37)]


def test_what_is_there_instead_is_said() -> None:
    run = Run()
    instead = Observation(1, Sample(absence="it is no socket"))
    assert run.feed(instead, instead).message == "8080 not listening: it is no socket"


# --- for every sequence

stages = st.sampled_from(list(Stage))
few = st.integers(0, 3)
works = st.builds(
    Work,
    accepted=few,
    served=few,
    sent_ago=st.none() | st.floats(0, 90),
    working=few,
    resets=st.none() | few,
    youngest_owner=st.none() | st.floats(0, 90),
    acceptors_gone=st.sampled_from([None, True, False]),
)


@st.composite
def observations(draw: st.DrawFn) -> list[Observation]:
    """Some minutes of anything: queues, heads, holes, restarts, round trips, clocks that jump."""
    at = 0.0
    out = []
    for _ in range(draw(st.integers(0, 60))):
        at += draw(st.sampled_from([0.25, 1.0, 1.0, 1.0, 2.0, 10.0, -0.5]))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            out.append(nobody(at))
        elif kind == 1:
            out.append(blind(at))
        elif kind <= 3:
            outcome = draw(st.sampled_from(list(Outcome)))
            stage = draw(stages) if outcome is Outcome.FAILED else None
            begun = at - draw(st.sampled_from([0.0, 0.1, 2.0]))
            accepted = draw(st.booleans())
            trip = RoundTrip(begun, outcome, stage, "x", accepted=accepted)
            out.append(Observation(at, round_trip=trip))
        else:
            rows = tuple(
                listener(draw(st.integers(0, 7)), draw(st.sampled_from([5, 0, None])), cookie)
                for cookie in draw(st.sampled_from([(1,), (1,), (1,), (2,), (1, 2), (1, 2, 3)]))
            )
            out.append(
                Observation(
                    at,
                    Sample(
                        rows,
                        draw(st.none() | st.integers(0, 3)),
                        draw(st.sampled_from([(), (10,), (11,), (10, 11)])),
                    ),
                    accepted=draw(st.booleans()),
                    own_queued_for=draw(st.none() | st.floats(0, 60)),
                    work=draw(st.sampled_from([None, SERVED, WORKING, LEAKED])),
                    unasked=draw(st.booleans()),
                )
            )
    return out


@given(observations())
def test_same_observations_same_verdicts(sequence: list[Observation]) -> None:
    one, two = Run(), Run()
    one.feed(*sequence)
    two.feed(*sequence)
    assert one.state == two.state
    assert one.transitions == two.transitions


@given(observations())
def test_transitions_tell_the_whole_story(sequence: list[Observation]) -> None:
    run = Run()
    run.feed(*sequence)
    told = judge.initial(TARGET).verdict
    for transition in run.transitions:
        assert judge._outline(transition.before) == judge._outline(told)
        assert judge._outline(transition.before) != judge._outline(transition.after)
        told = transition.after
    assert judge._outline(told) == judge._outline(run.state.verdict)
    assert [t.at for t in run.transitions] == sorted(t.at for t in run.transitions)


@given(observations(), st.floats(0, 5))
def test_unknown_neither_fails_nor_heals(sequence: list[Observation], later: float) -> None:
    run = Run()
    verdict = run.feed(*sequence)
    at = (run.state.at or 0.0) + later
    after = run.feed(
        blind(at), Observation(at, round_trip=RoundTrip(at, Outcome.UNKNOWN, detail="x"))
    )
    assert (after.ready, after.live, after.started) == (
        verdict.ready,
        verdict.live,
        verdict.started,
    )


@given(observations())
def test_time_never_runs_backwards(sequence: list[Observation]) -> None:
    run = Run()
    run.feed(sampled(0), *sequence)
    before = run.state
    assert before.at is not None
    run.feed(sampled(before.at - 1, 6, accepts=0), bad(before.at - 1))
    assert run.state == before


@given(observations())
def test_a_new_cookie_starts_clean(sequence: list[Observation]) -> None:
    run = Run()
    run.feed(*sequence)
    verdict = run.feed(sampled((run.state.at or 0.0) + 1, 5, cookie=99, accepts=0))
    assert verdict.live
    assert verdict.reason in (None, Reason.STARTING)
    assert run.state.failures == 0
    assert run.state.watches[0].stalled_for == 0


@given(observations())
def test_live_never_fails_while_accepts_go_on(sequence: list[Observation]) -> None:
    """Whatever else is seen, a proof of an accept keeps or makes the target live."""
    run = Run()
    run.feed(*sequence)
    at = (run.state.at or 0.0) + 1
    assert run.feed(sampled(at, 5, accepted=True)).live
    for turn in range(1, 80):
        seen = sampled(at + turn, 6, accepts=turn, head=(1000 + turn,))
        assert run.feed(seen, bad(at + turn, Stage.QUEUED)).live


@given(observations())
def test_never_flips_below_its_threshold(sequence: list[Observation]) -> None:
    """From healthy, no single observation makes a target unready, but a second one may."""
    run = healthy_run()
    later = 1.0
    for observation in sequence:
        if run.state.verdict.condition is not Condition.HEALTHY:
            heal(run)
            later += 10
        assert run.feed(observation._replace(at=observation.at + later)).ready


def heal(run: Run) -> None:
    """An accept, as long below half as it takes, and a good round trip."""
    at = (run.state.at or 0.0) + 1
    verdict = run.feed(*(sampled(at + turn, accepted=True) for turn in range(4)), good(at + 4))
    assert verdict.condition is Condition.HEALTHY


HASTY = POLICY._replace(live_after=5.0, live_after_busy=20.0)


def stalls(sequence: list[Observation], works: list[Work], turns: int) -> Iterator[Verdict]:
    """A listener that accepted once and then no more, whatever was before; a walk each second."""
    run = Run(HASTY)
    run.feed(*sequence)
    at = (run.state.at or 0.0) + 1
    run.feed(sampled(at, 0, cookie=77, accepts=0), good(at))
    for turn, work in enumerate(islice(cycle(works), turns), 1):
        yield run.feed(sampled(at + turn, 2, cookie=77, accepts=0)._replace(work=work))


@given(observations(), st.lists(st.tuples(works, st.floats(0, 4.5)), min_size=1, max_size=6))
def test_live_never_fails_while_bytes_are_sent_and_no_place_has_become_free(
    sequence: list[Observation], seen: list[tuple[Work, float]]
) -> None:
    served = [work._replace(accepted=5, sent_ago=ago, acceptors_gone=None) for work, ago in seen]
    assert all(verdict.live for verdict in stalls(sequence, served, 60))


@given(observations(), st.lists(works, min_size=1, max_size=6))
def test_live_fails_in_time_where_who_accepted_is_gone_or_nothing_goes_on(
    sequence: list[Observation], seen: list[Work]
) -> None:
    gone = [work._replace(acceptors_gone=True) for work in seen]
    *_, verdict = stalls(sequence, gone, 7)
    assert not verdict.live
    still = [work._replace(sent_ago=None, working=0, youngest_owner=None) for work in seen]
    *_, verdict = stalls(sequence, still, 7)
    assert not verdict.live


@given(observations(), st.lists(works, min_size=1, max_size=6))
def test_live_is_bounded_where_nobody_is_served(
    sequence: list[Observation], seen: list[Work]
) -> None:
    unserved = [work._replace(sent_ago=None) for work in seen]
    *_, verdict = stalls(sequence, unserved, 22)
    assert not verdict.live


@given(st.lists(st.sampled_from(["good", "bad"]), max_size=40))
def test_round_trips_are_counted_in_a_row(results: list[str]) -> None:
    run = healthy_run()
    row = 0
    for at, result in enumerate(results, 1):
        row = row + 1 if result == "bad" else 0
        verdict = run.feed(bad(at) if result == "bad" else good(at))
        assert verdict.ready is (row < POLICY.failure_threshold)
