//! What every command gets: its own flags and words, the global settings, a client when it wants one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use clap::ArgMatches;
use kvnode_client::{Client, Error};

use crate::cli;
use crate::failure::{Failure, Result, code};
use crate::output::{Format, Printer};
use crate::settings::Settings;

pub struct Context<'a> {
    pub matches: &'a ArgMatches,
    pub settings: Settings,
}

impl<'a> Context<'a> {
    pub fn new(matches: &'a ArgMatches) -> Result<Context<'a>> {
        Ok(Context {
            matches,
            settings: Settings::of(matches)?,
        })
    }

    /// The words behind the command, as bytes: keys and values need not be text.
    pub fn words(&self) -> Vec<Bytes> {
        cli::words_of(self.matches)
            .into_iter()
            .map(|word| word.into_vec().into())
            .collect()
    }

    /// The words as text, for everything that is no key and no value.
    pub fn texts(&self) -> Vec<String> {
        let text = |word: OsString| word.to_string_lossy().into_owned();
        cli::words_of(self.matches).into_iter().map(text).collect()
    }

    pub fn flag(&self, name: &str) -> bool {
        self.matches
            .get_one::<bool>(name)
            .copied()
            .unwrap_or_default()
    }

    pub fn number(&self, name: &str) -> i64 {
        self.matches
            .get_one::<i64>(name)
            .copied()
            .unwrap_or_default()
    }

    pub fn text(&self, name: &str) -> String {
        self.matches
            .get_one::<OsString>(name)
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// A printer, if the command knows the form asked for. Call it before any request: nothing is done
    /// that could then not be shown.
    pub fn printer(&self, known: &[Format]) -> Result<Printer> {
        let format = self.settings.format;
        if !known.contains(&format) {
            let known: Vec<_> = known.iter().map(|known| known.name()).collect();
            return Err(Failure::new(
                code::BAD_FEATURE,
                format!("{} not supported as output format", format.name()),
            )
            .next(format!("--write-out={}", known.join("|"))));
        }
        Ok(Printer::new(format, self.settings.hex))
    }

    /// A client whose calls are held to `--command-timeout`.
    pub fn client(&self) -> Result<Client> {
        client(&self.settings)
    }

    /// A client whose calls may take their time, as etcdctl's for the same commands.
    pub fn patient_client(&self) -> Result<Client> {
        Ok(self.client()?.with_timeout(None))
    }

    /// Endpoints as given, or all members' with `--cluster`.
    pub async fn endpoints(&self) -> Result<Vec<String>> {
        if !self.flag("cluster") {
            return Ok(self.settings.endpoints.clone());
        }
        let members = self.client()?.member_list(true).await.map_err(|error| {
            Failure::from(error)
                .inside("failed to fetch endpoints from etcd cluster member list: {}")
        })?;
        Ok(members
            .members
            .into_iter()
            .flat_map(|member| member.client_urls)
            .collect())
    }
}

/// A client as the global flags want it.
pub fn client(settings: &Settings) -> Result<Client> {
    Client::new(settings.config()?).map_err(|error| {
        let configuration = matches!(error, Error::Config(_));
        let failure = Failure::from(error);
        if configuration {
            failure.with_code(code::BAD_ARGS)
        } else {
            failure.with_code(code::BAD_CONNECTION)
        }
    })
}
