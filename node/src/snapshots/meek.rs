//! Work that gives way: packing and taking in whole states can use every processor there is, and clients come first.

/// On the scale of nice: about a tenth of a busy processor, all of an idle one.
const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread, and of those it starts from now on. Where that is not allowed it goes on as it was.
pub fn give_way() {
    // On Linux a thread has a niceness of its own, and no process means the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        log::debug!("the priority of a thread that moves a snapshot stays: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn a_thread_that_gives_way_takes_its_children_along_and_nobody_else() {
        let before = getpriority_process(None).unwrap();
        let lowered = std::thread::spawn(|| {
            give_way();
            let child = std::thread::spawn(|| getpriority_process(None).unwrap());
            (getpriority_process(None).unwrap(), child.join().unwrap())
        });
        assert_eq!(lowered.join().unwrap(), (NICENESS, NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
