//! Any sequence of calls gives the answers and readings of a plain sequential model.

mod reference_model;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use reference_model::{Operation, Pair, Setup};

fn config() -> ProptestConfig {
    // The default place is found for tests inside the library only.
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig {
        cases: 1_000,
        failure_persistence: Some(Box::new(persistence)),
        ..ProptestConfig::default()
    }
}

fn setup() -> impl Strategy<Value = Setup> {
    any::<[u8; Setup::CODE]>().prop_map(Setup::decode)
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    vec(any::<[u8; Operation::CODE]>().prop_map(Operation::decode), 0..100)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_sequence_of_calls_agrees_with_a_plain_model_and_drains_to_nothing(
        setup in setup(),
        operations in operations(),
    ) {
        let mut pair = Pair::new(setup);
        operations.into_iter().for_each(|operation| pair.step(operation));
        pair.drain();
    }

    #[test]
    fn no_record_outlives_a_buffer_that_is_dropped_after_any_sequence_of_calls(
        setup in setup(),
        operations in operations(),
    ) {
        let mut pair = Pair::new(setup);
        operations.into_iter().for_each(|operation| pair.step(operation));
        pair.abandon();
    }
}
