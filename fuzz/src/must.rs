//! What ends a run.

macro_rules! must {
    ($condition:expr, $($context:tt)*) => {
        if !$condition {
            eprintln!("seed {}: not so: {}: {}", $crate::SEED.load(std::sync::atomic::Ordering::Relaxed),
                stringify!($condition), format!($($context)*));
            std::process::abort();
        }
    };
}
