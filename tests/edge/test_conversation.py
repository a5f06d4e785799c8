from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.conversation import MAX_WAITING, Close, Conversation, Effect, Offer, State
from shared.errors import ClientError


def spoken_turn(conversation: Conversation, *, interrupt: bool = True) -> int:
    conversation.begin(typed=False, interrupt=interrupt)
    conversation.end_utterance()
    return conversation.turn


def test_a_turn_goes_from_listening_through_hearing_and_thinking_to_speaking_and_back() -> None:
    conversation = Conversation()
    states = [conversation.state]
    assert conversation.begin(typed=False, interrupt=True) == [Offer(1)]
    states.append(conversation.state)
    conversation.end_utterance()
    states.append(conversation.state)
    conversation.spoke(1)
    states.append(conversation.state)
    assert conversation.complete(1) == []
    assert conversation.state is State.SPEAKING
    assert conversation.heard_out(1) == [Close(1, "heard", whole=True)]
    states.append(conversation.state)
    assert states == [State.LISTENING, State.HEARING, State.THINKING, State.SPEAKING, State.LISTENING]


def test_a_typed_turn_is_thought_about_at_once() -> None:
    conversation = Conversation()
    assert conversation.begin(typed=True, interrupt=True) == [Offer(1)]
    assert conversation.state is State.THINKING
    assert conversation.awaited == 1


def test_a_turn_is_offered_at_its_first_sound_when_nothing_stands_before_it() -> None:
    conversation = Conversation(last_turn=6)
    assert conversation.begin(typed=False, interrupt=False) == [Offer(7)]


def test_a_new_utterance_cuts_the_answer_that_is_being_made_and_closes_it_before_it_is_offered() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    assert conversation.begin(typed=False, interrupt=True) == [Close(1, "barge_in"), Offer(2)]


def test_a_new_utterance_while_a_complete_answer_plays_settles_it_with_what_was_heard_of_it() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    conversation.complete(1)
    assert conversation.begin(typed=False, interrupt=True) == [Close(1, "heard"), Offer(2)]


def test_a_turn_that_was_heard_out_leaves_nothing_to_close_for_the_next() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    conversation.complete(1)
    conversation.heard_out(1)
    assert conversation.begin(typed=True, interrupt=True) == [Offer(2)]


def test_without_interruption_the_utterance_waits_until_the_answer_before_it_was_sent() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    assert conversation.begin(typed=False, interrupt=False) == []
    conversation.end_utterance()
    assert conversation.complete(1) == [Close(1, "heard", whole=True), Offer(2)]
    assert conversation.awaited == 2


def test_utterances_wait_in_order() -> None:
    conversation = Conversation()
    for _ in range(3):
        spoken_turn(conversation, interrupt=False)
    assert conversation.complete(1) == [Close(1, "heard", whole=True), Offer(2)]
    assert conversation.complete(2) == [Close(2, "heard", whole=True), Offer(3)]
    assert conversation.complete(3) == []


def test_a_full_line_is_busy_and_takes_nothing_more() -> None:
    conversation = Conversation()
    for _ in range(1 + MAX_WAITING):
        spoken_turn(conversation, interrupt=False)
    with pytest.raises(ClientError) as refused:
        conversation.begin(typed=False, interrupt=False)
    assert refused.value.code == "busy"
    assert refused.value.retryable
    assert conversation.turn == 1 + MAX_WAITING
    assert not conversation.hearing


def test_an_interrupting_utterance_cuts_everything_that_waits() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    spoken_turn(conversation, interrupt=False)
    assert conversation.begin(typed=False, interrupt=True) == [
        Close(1, "barge_in"),
        Close(2, "barge_in"),
        Offer(3),
    ]


def test_a_second_utterance_cannot_begin_inside_an_open_one() -> None:
    conversation = Conversation()
    conversation.begin(typed=False, interrupt=True)
    with pytest.raises(ClientError) as refused:
        conversation.begin(typed=True, interrupt=True)
    assert refused.value.code == "wrong_state"
    assert conversation.turn == 1


def test_there_must_be_an_utterance_to_end() -> None:
    conversation = Conversation()
    with pytest.raises(ClientError) as refused:
        conversation.end_utterance()
    assert refused.value.code == "wrong_state"


def test_the_user_interrupts_an_answer_that_is_made() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    assert conversation.interrupt() == [Close(1, "user_interrupt")]
    assert conversation.state is State.LISTENING


def test_the_user_interrupts_an_answer_that_was_sent_and_still_plays() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    conversation.complete(1)
    assert conversation.answered == 1
    assert conversation.interrupt() == [Close(1, "user_interrupt")]


def test_an_interrupted_answer_makes_room_for_the_utterance_that_waits() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    conversation.begin(typed=False, interrupt=False)
    assert conversation.interrupt() == [Close(1, "user_interrupt"), Offer(2)]
    assert conversation.hearing


@pytest.mark.parametrize("hearing", [True, False])
def test_nothing_to_interrupt_is_a_wrong_state(hearing: bool) -> None:
    conversation = Conversation()
    if hearing:
        conversation.begin(typed=False, interrupt=True)
    with pytest.raises(ClientError) as refused:
        conversation.interrupt()
    assert refused.value.code == "wrong_state"


def test_a_turn_that_failed_is_closed_everywhere_and_the_next_is_offered() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    spoken_turn(conversation, interrupt=False)
    assert conversation.broken(1, "failed") == [Close(1, "failed"), Offer(2)]


def test_a_turn_that_fails_while_its_utterance_is_open_closes_the_utterance_too() -> None:
    conversation = Conversation()
    conversation.begin(typed=False, interrupt=True)
    assert conversation.broken(1, "failed") == [Close(1, "failed", utterance_too=True)]
    assert not conversation.hearing


def test_a_waiting_turn_that_breaks_does_not_disturb_the_one_before_it() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    spoken_turn(conversation, interrupt=False)
    assert conversation.broken(2, "failed") == [Close(2, "failed")]
    assert conversation.awaited == 1


def test_what_happens_to_a_turn_that_was_cut_changes_nothing() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    conversation.interrupt()
    conversation.spoke(1)
    assert conversation.complete(1) == conversation.heard_out(1) == conversation.broken(1, "failed") == []
    assert not conversation.lives(1)


def test_a_turn_that_could_not_be_written_gives_its_number_back() -> None:
    conversation = Conversation()
    conversation.begin(typed=False, interrupt=True)
    conversation.withdraw()
    assert conversation.state is State.LISTENING
    assert conversation.begin(typed=False, interrupt=True) == [Offer(1)]


def test_leaving_closes_all_that_lives() -> None:
    conversation = Conversation()
    spoken_turn(conversation)
    conversation.begin(typed=False, interrupt=False)
    assert conversation.leave() == [Close(1, "bye"), Close(2, "bye", utterance_too=True)]
    assert conversation.state is State.LISTENING


def test_a_restored_conversation_offers_its_turn_again() -> None:
    conversation = Conversation.restored([(4, True)], last_turn=4)
    assert conversation.resumed(interrupt=True) == [Offer(4)]
    assert conversation.hearing
    assert Conversation.restored([], last_turn=4).resumed(interrupt=True) == []


def test_a_restored_conversation_finishes_a_barge_in_that_its_predecessor_did_not() -> None:
    living = [(4, False), (5, True)]
    assert Conversation.restored(living, 5).resumed(interrupt=True) == [Close(4, "barge_in"), Offer(5)]
    assert Conversation.restored(living, 5).resumed(interrupt=False) == [Offer(4)]


def test_an_answer_that_is_only_told_again_is_offered_to_nobody_and_heard_before_what_lives() -> None:
    conversation = Conversation.restored([(5, False)], 5, replayed=[4])
    assert conversation.resumed(interrupt=True) == []
    assert conversation.awaited == 4
    assert conversation.complete(4) == [Close(4, "heard", whole=True), Offer(5)]


def test_an_answer_that_is_told_again_is_cut_off_like_any_other() -> None:
    conversation = Conversation.restored([], 4, replayed=[3, 4])
    assert conversation.interrupt() == [Close(3, "user_interrupt")]
    assert conversation.begin(typed=True, interrupt=True) == [Close(4, "barge_in"), Offer(5)]


def test_a_barge_in_that_is_finished_leaves_what_is_told_again() -> None:
    conversation = Conversation.restored([(4, False), (5, True)], 5, replayed=[3])
    assert conversation.resumed(interrupt=True) == [Close(4, "barge_in")]
    assert (conversation.awaited, conversation.lives(4)) == (3, False)


class AnyCourse(RuleBasedStateMachine):
    """Whatever happens in whatever order: turns are offered in order, never beside one that lives, and each
    is closed at most once."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation()
        self.offered: list[int] = []
        self.closed: list[int] = []

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Close):
                assert effect.turn not in self.closed
                self.closed.append(effect.turn)
            else:
                if effect.turn not in self.offered:
                    self.offered.append(effect.turn)
                unfinished = set(range(1, effect.turn)) - set(self.closed)
                assert not unfinished, f"{effect.turn} was offered beside {unfinished}"

    @rule(typed=st.booleans(), interrupt=st.booleans())
    def begin(self, typed: bool, interrupt: bool) -> None:
        try:
            self.apply(self.conversation.begin(typed=typed, interrupt=interrupt))
        except ClientError as error:
            assert error.code in ("busy", "wrong_state")

    @precondition(lambda self: self.conversation.hearing)
    @rule()
    def end_utterance(self) -> None:
        self.conversation.end_utterance()

    @rule()
    def interrupt(self) -> None:
        try:
            self.apply(self.conversation.interrupt())
        except ClientError as error:
            assert error.code == "wrong_state"

    @precondition(lambda self: self.conversation.awaited is not None)
    @rule(spoke=st.booleans())
    def complete(self, spoke: bool) -> None:
        turn = self.conversation.awaited
        assert turn is not None
        if spoke:
            self.conversation.spoke(turn)
        self.apply(self.conversation.complete(turn))

    @precondition(lambda self: self.conversation.answered is not None)
    @rule()
    def heard_out(self) -> None:
        turn = self.conversation.answered
        assert turn is not None
        self.apply(self.conversation.heard_out(turn))

    @rule(back=st.integers(0, 3))
    def broken(self, back: int) -> None:
        self.apply(self.conversation.broken(self.conversation.turn - back, "failed"))

    @invariant()
    def the_head_of_the_line_is_offered(self) -> None:
        if self.conversation.awaited is not None:
            assert self.conversation.awaited in self.offered

    @invariant()
    def turns_are_offered_in_order(self) -> None:
        assert self.offered == sorted(self.offered)

    def teardown(self) -> None:
        self.apply(self.conversation.leave())
        assert sorted(self.closed) == list(range(1, self.conversation.turn + 1))


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
