//! What a service costs that has little to do.

use crate::http::{Addresses, Caller};
use crate::place::Place;

/// Calls made before the measurement, one after the other.
const CALLS: usize = 100;
const MIB: u64 = 1024 * 1024;
/// Most memory afterwards. Without optimisation the program itself is several times as large.
const RESIDENT_BYTES_MAX: u64 = if cfg!(debug_assertions) {
    120 * MIB
} else {
    60 * MIB
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_with_little_to_do_needs_little_memory() {
    let place = Place::sqlite();
    let service = place.start().await;
    let tenant = place.tenant("a", 0);
    let caller = Caller::new(&Addresses::of(&[&service]), &tenant);
    for number in 0..CALLS {
        assert_eq!(caller.request(&format!("call-{number}")).await.status, 201);
    }
    assert_eq!(caller.log().await.len(), CALLS);

    let resident = service.resident_bytes();

    println!("{} MiB resident after {CALLS} calls", resident / MIB);
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB", resident / MIB);
}
