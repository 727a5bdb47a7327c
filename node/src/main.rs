//! kvnode: the server. A table of modes; everything else is in the library.

use std::io::Write as _;
use std::process::ExitCode;

use kvnode::config::{self, Config, Mode};
use kvnode::reload::Reload;
use kvnode::{exit, logging, node};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Kept for reloads: the same words, the file as it is then.
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match config::pages::asked(&args) {
        None => {}
        Some(Ok(page)) => return print(&page),
        Some(Err(error)) => {
            return exit::refuse(error.exit_code, &error.message, error.hint.as_deref());
        }
    }
    let vars: Vec<_> = std::env::vars_os().collect();
    let load = move || {
        Config::load(args.clone(), vars.clone(), |path| {
            std::fs::read_to_string(path)
        })
    };
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => return exit::refuse(error.exit_code, &error.message, error.hint.as_deref()),
    };
    match loaded.mode {
        Mode::Help => print(&config::help()),
        Mode::Version => print(&config::version()),
        Mode::CheckConfig => print(&loaded.report()),
        Mode::Run => {
            let logging = match logging::init(&loaded.config.log) {
                Ok(logging) => logging,
                Err(error) => {
                    let hint = Some("check --log-outputs");
                    return exit::refuse(exit::Code::Failed as u8, &error.to_string(), hint);
                }
            };
            for notice in &loaded.notices {
                notice.log();
            }
            for setting in loaded.not_default() {
                log::info!("{} = {} ({})", setting.name, setting.value, setting.source);
            }
            let reload = Reload::new(Box::new(load), logging, loaded.effective);
            match node::run(loaded.config, reload) {
                Ok(()) => ExitCode::SUCCESS,
                Err(exit) => exit.report(),
            }
        }
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that went away (a pager, `head`) is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}
