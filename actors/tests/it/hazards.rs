//! Schedules that were once possible on paper, each by its name. What only PostgreSQL can suffer is in
//! `persistence/tests`; panics in every handler are in [`crate::matrix::crashes`].

mod cancels;
mod deadlines;
mod durability;
mod overload;
mod panics;
mod participants;

/// Every schedule, by its name, for the mutants.
pub const ALL: [(&str, fn()); 16] = [
    (
        "a repeated undo waits for the row before it",
        durability::a_repeated_undo_is_not_answered_from_a_state_that_never_became_durable,
    ),
    (
        "an effect waits for its row",
        durability::an_effect_does_not_start_from_a_state_that_never_became_durable,
    ),
    ("an answer waits for its row", durability::an_answer_does_not_leave_before_its_row_is_durable),
    (
        "a paused owner's late row is swept",
        durability::a_row_of_a_paused_owner_that_commits_after_a_take_over_is_driven_by_the_sweep,
    ),
    ("a commit sent again is ours", durability::an_unknown_commit_sent_again_is_neither_lost_nor_doubled),
    (
        "a row that is not ours is not answered",
        durability::of_two_owners_the_one_whose_row_is_refused_answers_nobody,
    ),
    (
        "what is already so counts, however late",
        deadlines::a_late_repeat_past_its_deadline_is_not_taken_for_a_refusal,
    ),
    (
        "a dead node's charge counts when it is found",
        deadlines::a_charge_that_was_made_counts_even_if_its_node_was_dead_past_the_deadline,
    ),
    (
        "an outage of five minutes",
        deadlines::an_outage_of_five_minutes_leaves_nothing_undone_and_nobody_needed,
    ),
    (
        "a charge whose answer was lost",
        deadlines::a_charge_whose_answer_was_lost_is_given_back_once_whatever_the_bank_said,
    ),
    ("cancel against completion", || drop(cancels::cancel_everywhere())),
    (
        "a price changed meanwhile",
        participants::the_price_in_force_when_stock_is_reserved_is_the_one_that_is_charged,
    ),
    ("a product withdrawn meanwhile", participants::a_product_withdrawn_before_it_is_reserved_is_not_sold),
    (
        "an undo before its action",
        participants::an_undo_before_its_action_succeeds_and_the_late_action_is_refused,
    ),
    ("an answer at a full mailbox", overload::an_answer_that_comes_to_a_full_mailbox_is_not_lost),
    (
        "a panic of whoever performs an effect",
        panics::a_panic_of_whoever_performs_an_effect_is_no_answer_and_no_end,
    ),
];
