//! The lock of what publishers and connections share. In tests it may be one under which many orders of what threads do are
//! tried.

#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(test)]
pub(crate) use tried::in_any_order;
#[cfg(test)]
pub(crate) use tried::{Mutex, MutexGuard};

#[cfg(test)]
mod tried {
    use std::cell::Cell;
    use std::ops::{Deref, DerefMut};
    use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};

    thread_local! {
        static IS_TRIED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `trial`, which tries many orders. All its threads are this one, by turns.
    pub(crate) fn in_any_order<T>(trial: impl FnOnce() -> T) -> T {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                IS_TRIED.set(false);
            }
        }
        let _restore = Restore;
        IS_TRIED.set(true);
        trial()
    }

    #[derive(Debug)]
    pub(crate) enum Mutex<T> {
        Usual(std::sync::Mutex<T>),
        Tried(shuttle::sync::Mutex<T>),
    }

    #[derive(Debug)]
    pub(crate) enum MutexGuard<'a, T> {
        Usual(std::sync::MutexGuard<'a, T>),
        Tried(shuttle::sync::MutexGuard<'a, T>),
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            if IS_TRIED.get() {
                Self::Tried(shuttle::sync::Mutex::new(value))
            } else {
                Self::Usual(std::sync::Mutex::new(value))
            }
        }

        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            fn same<G, H>(result: LockResult<G>, guard: impl Fn(G) -> H) -> LockResult<H> {
                match result {
                    Ok(locked) => Ok(guard(locked)),
                    Err(poisoned) => Err(PoisonError::new(guard(poisoned.into_inner()))),
                }
            }
            match self {
                Self::Usual(mutex) => same(mutex.lock(), MutexGuard::Usual),
                Self::Tried(mutex) => same(mutex.lock(), MutexGuard::Tried),
            }
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn is_poisoned(&self) -> bool {
            match self {
                Self::Usual(mutex) => mutex.is_poisoned(),
                Self::Tried(_) => false,
            }
        }

        pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
            fn same<G, H>(result: TryLockResult<G>, guard: impl Fn(G) -> H) -> TryLockResult<H> {
                match result {
                    Ok(locked) => Ok(guard(locked)),
                    Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
                    Err(TryLockError::Poisoned(poisoned)) => {
                        Err(TryLockError::Poisoned(PoisonError::new(guard(poisoned.into_inner()))))
                    }
                }
            }
            match self {
                Self::Usual(mutex) => same(mutex.try_lock(), MutexGuard::Usual),
                Self::Tried(mutex) => same(mutex.try_lock(), MutexGuard::Tried),
            }
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            match self {
                Self::Usual(guard) => guard,
                Self::Tried(guard) => guard,
            }
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match self {
                Self::Usual(guard) => guard,
                Self::Tried(guard) => guard,
            }
        }
    }
}
