//! The client: one call with its retries, deadline and token.
//!
//! When a call is repeated, as etcd's own client does it:
//! - whatever it is, if the request surely was not processed (no connection, refused stream);
//! - a read also if the connection broke, or the server was unavailable for the moment;
//! - whatever it is, once, if the server no longer takes the token and a new one could be fetched.
//!
//! A write whose fate is unknown is never repeated: [`Error::Broken`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::{HeaderMap, HeaderValue};
use kvnode_api as api;
use kvnode_api::service::Method;
use kvnode_api::{Code, Message, Status};
use tokio::time::Instant;

use crate::config::{Config, Credentials};
use crate::connection::Incoming;
use crate::error::{Attempts, Error, Failure, Result};
use crate::pool::{Picked, Pool};

/// Pause before an unavailable cluster is asked again; grows up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Repetitions of one call, if no deadline ends it before.
const REPEATS_MAX: u32 = 100;

/// A client. Clones share connections and token; dropping the last one closes them.
///
/// Nothing is connected before the first call. All methods need a tokio runtime, on which the
/// connections run too; a current-thread runtime is enough.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Option<Duration>,
}

struct Shared {
    config: Config,
    pool: Pool,
    /// Held while a token is fetched, so that many calls fetch one.
    token: tokio::sync::Mutex<Token>,
}

/// What is known of the token.
#[derive(Clone, Default)]
struct Token {
    value: Option<HeaderValue>,
    /// Grows with every fetch, so that two calls refused with one token fetch one new token.
    generation: u64,
    /// The server said that it wants none.
    needless: bool,
}

/// Whether a call may be repeated if its fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or doing it twice is the same as once.
    Freely,
    /// Only while it surely was not processed.
    IfNotSent,
}

impl Client {
    /// Checks the configuration and reads certificates; connects to nobody.
    ///
    /// # Errors
    /// [`Error::Config`] naming the endpoint or file that cannot be used.
    pub fn new(config: Config) -> Result<Client> {
        let mut token = Token::default();
        if let Some(Credentials::Token(text)) = &config.credentials {
            token.value = Some(header(text)?);
        }
        Ok(Client {
            timeout: config.call_timeout,
            shared: Arc::new(Shared {
                pool: Pool::new(&config)?,
                token: tokio::sync::Mutex::new(token),
                config,
            }),
        })
    }

    /// The same client with another time limit for its calls.
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Client {
        Client {
            shared: Arc::clone(&self.shared),
            timeout,
        }
    }

    /// A client of its own connections that asks only this endpoint.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn only(&self, endpoint: &str) -> Result<Client> {
        let mut config = self.shared.config.clone();
        config.endpoints = vec![endpoint.to_owned()];
        config.call_timeout = self.timeout;
        Client::new(config)
    }

    /// How it was made.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Forgets the token, so that the next call fetches one; false if it was given from outside.
    pub(crate) async fn renew_token(&self) -> bool {
        let generation = self.shared.token.lock().await.generation;
        self.forget_token(generation).await
    }

    /// A call with one request and one answer, for methods without a function of their own.
    ///
    /// # Errors
    /// All of [`Error`] but those of watches and sessions.
    pub async fn unary<Q, R>(&self, method: Method, request: &Q, repeat: Repeat) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let body = self.encode(request)?;
        let mut attempts = Attempts::default();
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let calling = self.repeat(method, body, repeat, deadline, &mut attempts);
        match deadline {
            None => calling.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, calling).await {
                Ok(result) => result,
                Err(_) => Err(self.too_late(attempts)),
            },
        }
    }

    /// A call with one request and many answers. Only its start is repeated.
    pub(crate) async fn server_stream<Q, R>(
        &self,
        method: Method,
        request: &Q,
    ) -> Result<Answers<R>>
    where
        Q: Message,
        R: Message + Default,
    {
        let body = self.encode(request)?;
        let (_, answers) = self.open(method, Some(body)).await?;
        Ok(answers)
    }

    /// A call with many requests and many answers.
    pub(crate) async fn both_ways<R>(
        &self,
        method: Method,
    ) -> Result<(SendStream<Bytes>, Answers<R>)>
    where
        R: Message + Default,
    {
        self.open(method, None).await
    }

    async fn open<R>(
        &self,
        method: Method,
        body: Option<Bytes>,
    ) -> Result<(SendStream<Bytes>, Answers<R>)>
    where
        R: Message + Default,
    {
        let mut attempts = Attempts::default();
        let begun = Instant::now();
        for step in 0.. {
            let (token, _) = self.token(&mut attempts).await?;
            let Picked {
                mut connection,
                index,
            } = self.pick(begun, &mut attempts).await?;
            let started = connection
                .start(method, &metadata(token, None), body.clone())
                .await;
            match started {
                Ok((sender, incoming)) => {
                    let endpoint = self.shared.pool.name(index).to_owned();
                    let answers = Answers {
                        incoming,
                        endpoint,
                        index,
                        client: self.clone(),
                    };
                    return Ok((sender, answers));
                }
                Err(failure) => {
                    self.note(index, &failure, &mut attempts).await;
                    if step >= REPEATS_MAX {
                        return Err(self.verdict(index, failure));
                    }
                    pause(step, self.shared.pool.len()).await;
                }
            }
        }
        unreachable!("the loop only ends by returning")
    }

    async fn repeat<R: Message + Default>(
        &self,
        method: Method,
        body: Bytes,
        repeat: Repeat,
        deadline: Option<Instant>,
        attempts: &mut Attempts,
    ) -> Result<R> {
        let begun = Instant::now();
        let mut refused_tokens = 0;
        let mut step = 0;
        loop {
            let (token, generation) = self.token(attempts).await?;
            let Picked {
                mut connection,
                index,
            } = self.pick(begun, attempts).await?;
            let metadata = metadata(token, deadline);
            let result = match connection
                .start::<R>(method, &metadata, Some(body.clone()))
                .await
            {
                Ok((_sender, incoming)) => incoming.only().await,
                Err(failure) => Err(failure),
            };
            let failure = match result {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if let Failure::Status(status) = &failure
                && refuses_token(status)
                && refused_tokens < 2
                && self.forget_token(generation).await
            {
                refused_tokens += 1;
                continue;
            }
            let again = match &failure {
                Failure::NotSent(_) => true,
                Failure::Broken(_) => repeat == Repeat::Freely,
                Failure::Status(status) => {
                    repeat == Repeat::Freely && status.code == Code::Unavailable
                }
            };
            if !again || step >= REPEATS_MAX {
                return Err(self.verdict(index, failure));
            }
            self.note(index, &failure, attempts).await;
            pause(step, self.shared.pool.len()).await;
            step += 1;
        }
    }

    /// A connection, looked for until one can be made or the connect timeout is over.
    async fn pick(&self, begun: Instant, attempts: &mut Attempts) -> Result<Picked> {
        let Shared { pool, config, .. } = &*self.shared;
        let mut wait = PAUSE;
        loop {
            if let Some(picked) = pool.pick(config, attempts).await {
                return Ok(picked);
            }
            if begun.elapsed() + wait > config.connect_timeout {
                return Err(Error::Unreachable {
                    attempts: attempts.clone(),
                });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(PAUSE_MAX);
        }
    }

    /// The token to send and its generation; fetched if there must be one.
    async fn token(&self, attempts: &mut Attempts) -> Result<(Option<HeaderValue>, u64)> {
        let Some(credentials) = &self.shared.config.credentials else {
            return Ok((None, 0));
        };
        let mut token = self.shared.token.lock().await;
        if let Credentials::Password { name, password } = credentials
            && token.value.is_none()
            && !token.needless
        {
            match self.log_in(name, password, attempts).await {
                Ok(value) => token.value = Some(value),
                Err(error) if error.is(&Status::auth_not_enabled()) => token.needless = true,
                Err(error) => return Err(error),
            }
            token.generation += 1;
        }
        Ok((token.value.clone(), token.generation))
    }

    async fn log_in(
        &self,
        name: &str,
        password: &str,
        attempts: &mut Attempts,
    ) -> Result<HeaderValue> {
        let request = api::AuthenticateRequest {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let body = self.encode(&request)?;
        let begun = Instant::now();
        let mut step = 0;
        loop {
            let Picked {
                mut connection,
                index,
            } = self.pick(begun, attempts).await?;
            let started = connection
                .start::<api::AuthenticateResponse>(
                    Method::Authenticate,
                    &HeaderMap::new(),
                    Some(body.clone()),
                )
                .await;
            let result = match started {
                Ok((_sender, incoming)) => incoming.only().await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(answer) => return header(&answer.token),
                Err(Failure::Status(status))
                    if status.code != Code::Unavailable
                        && !status.message.contains("revision of auth store is old") =>
                {
                    return Err(self.verdict(index, Failure::Status(status)));
                }
                Err(failure) if step >= REPEATS_MAX => return Err(self.verdict(index, failure)),
                Err(failure) => self.note(index, &failure, attempts).await,
            }
            pause(step, self.shared.pool.len()).await;
            step += 1;
        }
    }

    /// Forgets the token of that generation; false if there is no way to get another.
    async fn forget_token(&self, generation: u64) -> bool {
        if !matches!(
            self.shared.config.credentials,
            Some(Credentials::Password { .. })
        ) {
            return false;
        }
        let mut token = self.shared.token.lock().await;
        if token.generation == generation {
            token.value = None;
            token.needless = false;
        }
        true
    }

    async fn note(&self, index: usize, failure: &Failure, attempts: &mut Attempts) {
        let name = self.shared.pool.name(index);
        match failure {
            Failure::NotSent(reason) | Failure::Broken(reason) => {
                attempts.note(name, reason);
                self.shared.pool.broke(index).await;
            }
            Failure::Status(status) => {
                attempts.note(name, &status.message);
                self.shared.pool.unwell(index);
            }
        }
    }

    fn verdict(&self, index: usize, failure: Failure) -> Error {
        let endpoint = self.shared.pool.name(index).to_owned();
        match failure {
            Failure::NotSent(reason) | Failure::Broken(reason) => {
                Error::Broken { endpoint, reason }
            }
            Failure::Status(status) => Error::Status { status, endpoint },
        }
    }

    fn too_late(&self, mut attempts: Attempts) -> Error {
        if attempts == Attempts::default() {
            for endpoint in &self.shared.config.endpoints {
                attempts.note(endpoint, "no answer in time");
            }
        }
        Error::Deadline {
            after: self.timeout.unwrap_or_default(),
            attempts,
        }
    }

    fn encode(&self, request: &impl Message) -> Result<Bytes> {
        let limit = self.shared.config.send_bytes_max;
        let bytes = request.encoded_len();
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let mut buffer = BytesMut::new();
        api::frame::encode_into(request, &mut buffer)
            .map_err(|_| Error::TooLarge { bytes, limit })?;
        Ok(buffer.freeze())
    }
}

/// The answers of a streaming call.
pub(crate) struct Answers<R> {
    incoming: Incoming<R>,
    endpoint: String,
    index: usize,
    client: Client,
}

impl<R: Message + Default> Answers<R> {
    /// The next answer or the end of the call. May be dropped half-way.
    pub async fn next(&mut self) -> Result<Option<R>> {
        match self.incoming.next().await {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                if !matches!(failure, Failure::Status(_)) {
                    self.client.shared.pool.broke(self.index).await;
                }
                Err(self.client.verdict(self.index, failure))
            }
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// The server does not know the token, or wants one after all.
fn refuses_token(status: &Status) -> bool {
    [
        Status::invalid_auth_token(),
        Status::auth_old_revision(),
        Status::user_empty(),
    ]
    .iter()
    .any(|known| known.message == status.message)
}

fn metadata(token: Option<HeaderValue>, deadline: Option<Instant>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert("token", token);
    }
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        // The form allows eight digits.
        let text = format!("{}m", left.as_millis().clamp(1, 99_999_999));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert("grpc-timeout", value);
        }
    }
    headers
}

fn header(token: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(token.trim())
        .map_err(|_| Error::Config("the token holds characters that cannot be sent".to_owned()))
}

/// Other endpoints are tried at once, the same one again after a pause that grows.
async fn pause(step: u32, endpoints: usize) {
    let round = step / u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
    if (step as usize + 1).is_multiple_of(endpoints) {
        let growing = PAUSE * 2u32.saturating_pow(round.min(10));
        tokio::time::sleep(growing.min(PAUSE_MAX)).await;
    }
}
