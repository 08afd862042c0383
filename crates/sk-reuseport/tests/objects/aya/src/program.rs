// What both objects have in common: the programs, over maps that each defines in its own way.

const SK_PASS: u32 = 1;

/// The index of the socket that is selected; the loader sets it.
#[unsafe(no_mangle)]
static CHOICE: u32 = 0;

/// Indices of COUNTERS.
const RUNS: u32 = 0;
const PICKED: u32 = 1;
const MISSED: u32 = 2;
const MIGRATED: u32 = 3;

#[inline(always)]
fn count(what: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(what) {
        // SAFETY: the verifier checks that it points into the map. Another CPU's increment may get
        // lost, which does not matter here.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn select(ctx: &SkReuseportContext) -> u32 {
    count(RUNS);
    // SAFETY: it is a valid u32; the compiler must not know its value, which the loader changes.
    let choice = unsafe { core::ptr::read_volatile(&raw const CHOICE) };
    count(if SOCKETS.select_reuseport(ctx, choice).is_ok() { PICKED } else { MISSED });
    SK_PASS
}

#[sk_reuseport]
fn choose(ctx: SkReuseportContext) -> u32 {
    select(&ctx)
}

#[sk_reuseport(migrate)]
fn choose_or_move(ctx: SkReuseportContext) -> u32 {
    if ctx.migrating_sk().is_some() {
        count(MIGRATED);
    }
    select(&ctx)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
