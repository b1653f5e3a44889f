//! Every bound of the gateway, on one page: bytes, counts, milliseconds, and const asserts that relate them.
//! What an operator may override is a field of `config`'s `limits` block with the constant here as its default.

// ---- http -----------------------------------------------------------------------------------------------------
/// A name of 255 bytes, a colon and a port.
pub const HOST_BYTES_MAX: usize = 261;
/// Request line and fields, bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Fields of one head.
pub const HEAD_FIELDS_MAX: usize = 100;
/// What a connection keeps of how its requests begin, to know it again, bytes.
pub const OPENING_BYTES_MAX: usize = 4 * 1024;
/// Requests in a row that may begin otherwise before nothing is kept any more.
pub const OPENING_MISSES_MAX: u8 = 8;
/// One field value, bytes.
pub const FIELD_VALUE_BYTES_MAX: usize = 8 * 1024;
/// A request body, bytes (default of `limits.body`).
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// One event of an event stream, bytes.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Interim (1xx) heads before an upstream's final one.
pub const INTERIM_HEADS_MAX: usize = 10;
/// Chunk extensions on one line, bytes.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 256;
/// Chunk extensions of one message, bytes.
pub const CHUNK_EXTENSIONS_BYTES_MAX: usize = 4 * 1024;
/// What an event stream's reader keeps of each of its buffers between two events, bytes.
pub const EVENT_BYTES_KEPT: usize = 1024;

// ---- jsonrpc --------------------------------------------------------------------------------------------------
/// Nesting of a message.
pub const DEPTH_MAX: usize = 64;
/// Members of all objects of one message together.
pub const MEMBERS_MAX: usize = 10_000;
/// A request id, bytes as written.
pub const ID_BYTES_MAX: usize = 256;
/// A member name, bytes as written.
pub const MEMBER_NAME_BYTES_MAX: usize = 16 * 1024;
/// Members written down of a message itself, of its body, and of the body's `_meta`, each.
pub const MEMBERS_RECORDED_MAX: usize = 64;
/// Members of all objects of a long answer that are open at one moment; lists of any length have few.
pub const ANSWER_MEMBERS_OPEN_MAX: usize = 64 * 1024;
/// A message that is first read the quick way, bytes: so short that it cannot have too many members.
pub const QUICK_BYTES_MAX: usize = 5 * MEMBERS_MAX;
/// Messages of one batch (default of `limits.batch`).
pub const BATCH_MESSAGES_DEFAULT: usize = 64;
/// And the most that `limits.batch` can be: each message's id is compared with those before it.
pub const BATCH_MESSAGES_MAX: usize = 256;

// ---- gateway --------------------------------------------------------------------------------------------------
/// What one send takes: with it a slow reader's stall is noticed before much is buffered.
pub const SEND_PIECE_BYTES: usize = 256 * 1024;
/// Answers up to this size are read whole, checked, and sent in one piece; longer ones are relayed as they come.
pub const ANSWER_WHOLE_BYTES_MAX: usize = 64 * 1024;
/// Answers to the messages of one batch that are kept to leave in one piece, bytes in all; beyond that the answer
/// becomes an event stream.
pub const BATCH_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Buffered for a slow reader of a stream before its upstream is paused, bytes.
pub const STREAM_BUFFERED_BYTES_MAX: usize = 256 * 1024;
/// From accept, or the first byte on a kept connection, to the end of the head (default of `limits.head`).
pub const HEAD_MS_MAX: u64 = 10_000;
/// For a whole request body (default of `limits.body_time`).
pub const BODY_MS_MAX: u64 = 30_000;
/// A kept connection without a request.
pub const IDLE_MS_MAX: u64 = 60_000;
/// A write that makes no progress (default of `limits.write_stall`).
pub const WRITE_STALL_MS_MAX: u64 = 30_000;
/// From SIGTERM until calls still running are cut (default of `limits.drain`).
pub const DRAIN_MS_MAX: u64 = 30_000;
/// To tell a legacy server that its request to the client is refused, milliseconds: its stream waits so long.
pub const ASK_REFUSED_MS_MAX: u64 = 5_000;
/// A keep-alive comment goes out on a stream that was silent for this long (default of `limits.keepalive`).
pub const STREAM_KEEPALIVE_MS: u64 = 15_000;
/// The longest silence that can be asked for: common proxies cut a connection after a minute of it.
pub const STREAM_KEEPALIVE_MS_MAX: u64 = 60_000;
/// A legacy stream that was cut is kept so long for its client to come back (default of `limits.resume`).
pub const STREAM_RESUME_MS: u64 = 60_000;
/// And at most so long.
pub const STREAM_RESUME_MS_MAX: u64 = 60 * 60 * 1000;
/// And must be acknowledged by the client's kernel within this time, milliseconds: with the comment before it, a client
/// that vanished is noticed within half a minute.
pub const STREAM_ACKNOWLEDGED_MS_MAX: u32 = 14_000;
/// What relaying an answer's stream takes is kept for the next one, so many times on a shard.
pub const STREAM_TOOLS_KEPT: usize = 64;
/// And so many bytes of each of its two buffers.
pub const STREAM_TOOLS_BYTES: usize = 16 * 1024;
/// A waiting call looks whether its client is still there after this long.
pub const WATCH_AFTER_MS: u64 = 10;
/// Read and thrown away of a refused request's body before the connection is closed, bytes.
pub const REFUSED_BODY_DRAIN_BYTES_MAX: usize = 64 * 1024;
/// And for so long, milliseconds.
pub const REFUSED_BODY_DRAIN_MS_MAX: u64 = 1_000;
/// Sessions that one shard knows without asking; one that has not been used for long is asked for again.
pub const SESSIONS_KNOWN_MAX: usize = 128 * 1024;
/// Sessions that a shard ends at once for want of use; the others have to wait a second.
pub const SESSIONS_EXPIRED_AT_ONCE_MAX: usize = 256;
/// And for so long tells their servers so, milliseconds, before it goes on with the next ones.
pub const SESSIONS_EXPIRED_MS_MAX: u64 = 5_000;
/// Ending a session: at its server, and in the journal, milliseconds each.
pub const SESSION_END_MS_MAX: u64 = 2_000;
/// How often a shard looks at its orders, milliseconds.
pub const HOUSEKEEPING_MS: u64 = 50;
/// A list request waits this long for a catalogue that its server has just announced as changed, milliseconds.
pub const LIST_FRESH_MS_MAX: u64 = 2_000;
/// When a drain begins, streams get this long for their clean end, milliseconds.
pub const STREAM_END_MS_MAX: u64 = 5_000;
/// A client's message over HTTP+SSE waits so long for those of its notifications and answers that came before it.
pub const TELLING_MS_MAX: u64 = 1_000;
/// Connections of one shard.
pub const CONNECTIONS_MAX: usize = 20_000;
/// A connection without a request keeps its buffer and its place in the pipeline for so long, milliseconds; then
/// nothing but its socket.
pub const IDLE_AFTER_MS: u64 = 1_000;
/// A body that arrives slower than this is not waited for, bytes a second.
pub const BODY_BYTES_PER_S_MIN: u64 = 1024;
/// After so long, milliseconds.
pub const BODY_GRACE_MS: u64 = 5_000;
/// A body larger than this asks for room that may be short.
pub const BODY_LARGE_BYTES: usize = 64 * 1024;
/// What all verifications of tokens may take of a shard's time, percent: 5 with what surrounds them and cannot be told
/// apart.
pub const VERIFY_PERCENT_MAX: i64 = 4;
/// A caller who has too much under way hears so after this long, milliseconds.
pub const BUSY_PAUSE_MS: u64 = 100;
/// And at once, after a time without any: the fleet comes back after a restart.
pub const VERIFY_BURST_MS: u64 = 250;
/// Subjects with nothing under way whose counts a shard keeps.
pub const SHARES_KEPT_MAX: usize = 4096;
/// TLS handshakes under way on one shard.
pub const HANDSHAKES_MAX: usize = 1024;
/// And of those that one address has begun.
pub const HANDSHAKES_PER_ADDRESS_MAX: u32 = 256;
/// Refused connections that are told so and waited for, on one shard; others are just closed.
pub const LINGERING_MAX: usize = 64;
/// Connections closed at once when no descriptor is left, before the shard sees to the others.
pub const TURN_AWAY_MAX: usize = 64;
/// Descriptors that client connections leave for everything else: rings, listeners, files, the plane's own.
pub const FILES_KEPT: usize = 128;
/// Connections looked at to find an idle one that can go.
pub const EVICT_LOOKS_MAX: usize = 256;
/// Connections of all shards together; no count of connections, calls or streams can be set higher.
pub const PROCESS_CONNECTIONS_MAX: usize = CONNECTIONS_MAX * SHARDS_MAX as usize;
/// Connections from one address, over all shards (default of `limits.connections_per_address`).
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 4096;
/// Calls in flight of one subject, over all shards (default of `limits.calls_per_subject`).
pub const CALLS_PER_SUBJECT_MAX: usize = 1024;
/// Open streams of one subject, over all shards (default of `limits.streams_per_subject`).
pub const STREAMS_PER_SUBJECT_MAX: usize = 256;
/// Calls in flight, over all shards (default of `limits.calls`).
pub const CALLS_MAX: usize = 16 * 1024;
/// Open streams, over all shards (default of `limits.streams`).
pub const STREAMS_MAX: usize = 16 * 1024;

/// Letters to one shard that it has not read; a shard reads them each time it wakes.
pub const LETTERS_MAX: usize = 4096;
/// Connections on their way to one shard.
pub const PARCELS_MAX: usize = 1024;
/// What they have received, all together, bytes; a single one may have more.
pub const PARCELS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A server that was told of a cancellation may still answer, or end by itself, for so long, milliseconds.
pub const CANCEL_GRACE_MS: u64 = 1_000;

// ---- tls ------------------------------------------------------------------------------------------------------
/// A client's handshake, from accept to its end, milliseconds (default of `limits.handshake`).
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Certificates of one listener, to choose from by the name that a client asks for.
pub const CERTIFICATES_MAX: usize = 256;
/// A file of certificates or a key, bytes: the certificate bundles of operating systems are a tenth of it.
pub const PEM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Held of a client's handshake while it is not complete, bytes: a hello in records of one byte has room, a flood of
/// half hellos does not take the shard's buffers.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// Received, and not yet decrypted, of one connection, bytes.
pub const TLS_INCOMING_BYTES_MAX: usize = ANSWER_WHOLE_BYTES_MAX + HEAD_BYTES_MAX;
/// Plain text of one record, bytes (RFC 8446, 5.1).
pub const TLS_RECORD_BYTES_MAX: usize = 16 * 1024;
/// Encrypted at once, and given to one send, bytes.
pub const TLS_PIECE_BYTES: usize = 4 * TLS_RECORD_BYTES_MAX;
/// Receives of one look at a connection that should be quiet; a peer that sends more without saying anything is
/// looked at again later.
pub const TLS_LOOKS_MAX: usize = 16;
/// Read and thrown away after a failed handshake, so that its alert reaches the peer, bytes.
pub const TLS_REFUSED_DRAIN_BYTES_MAX: usize = 64 * 1024;
/// Tickets of one server that a shard keeps to resume with.
pub const TLS_TICKETS_KEPT: usize = 8;
/// Servers whose tickets a shard keeps.
pub const TLS_TICKET_SERVERS_MAX: usize = 256;
/// After other settings have come, a token that was known before is verified again at nobody's expense for so long,
/// milliseconds.
pub const TOKENS_BEFORE_MS: u64 = 60_000;
/// How often the configuration and the files of certificates are looked at, milliseconds.
pub const CERTS_LOOK_MS: u64 = 400;
/// After a reload, the shards get so long to take up the new settings before it is said that some have not,
/// milliseconds.
pub const RELOAD_SEEN_MS_MAX: u64 = 5_000;
/// A file that changed within this time is read at each look: its clock may be too coarse to show another change.
pub const CERTS_SETTLED_MS: u64 = 3_000;
/// A certificate that expires within this time is worth a warning, days.
pub const CERT_WARN_DAYS: i64 = 7;

// ---- upstream -------------------------------------------------------------------------------------------------
/// A connect to an upstream.
pub const CONNECT_MS_MAX: u64 = 3_000;
/// A call, from its first byte upstream to its answer (default of `servers.NAME.timeout`).
pub const CALL_MS_MAX: u64 = 60_000;
/// The one request that a half-open breaker lets through has failed when it was not answered for this long,
/// milliseconds.
pub const BREAKER_PROBE_MS: u64 = 5_000;
/// Names are resolved again after this long, and after a failed connect, milliseconds.
pub const RESOLVE_MS: u64 = 30_000;
/// A catalogue is fetched again after this long when its server neither says how long it holds nor has a stream that
/// would tell, milliseconds.
pub const CATALOG_MS_DEFAULT: u64 = 60_000;
/// And never sooner than this after the last time, milliseconds, unless the server announces a change.
pub const CATALOG_MS_MIN: u64 = 1_000;
/// A survey waits so long for changes that follow the one it is for, milliseconds.
pub const CATALOG_GATHER_MS: u64 = 50;
/// Definitions that a survey could not use are named in the log up to this number; of the others the number is told.
pub const LEFT_OUT_NAMED_MAX: usize = 32;
/// And their names up to so many letters.
pub const LEFT_OUT_LETTERS_MAX: usize = 128;
/// The longest wait between two tries to reach a server, milliseconds.
pub const CATALOG_RETRY_MS_MAX: u64 = 5_000;
/// One answer to a question of the plane's, milliseconds.
pub const PLANE_ANSWER_MS_MAX: u64 = 10_000;
/// And its size, bytes.
pub const PLANE_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages of a server kept while the plane waits for an answer on the same stream.
pub const PLANE_HEARD_MAX: usize = 64;
/// A request of this size fits the kernel's buffers; a longer one may have to wait for its server to read.
pub const SENT_AT_ONCE_BYTES: usize = 16 * 1024;
/// The plane waits so long to say farewell on an encrypted connection, milliseconds.
pub const PLANE_FAREWELL_MS_MAX: u64 = 10;
/// Idle connections kept per shard and server.
pub const UPSTREAM_IDLE_MAX: usize = 512;
/// So many of those, where each owner has connections of its own (credentials that are personal), per shard.
pub const UPSTREAM_IDLE_KEYS_MAX: usize = 4_096;
/// Callers and tools of which a shard keeps what their records have in common: places for it.
pub const ALIKE_KEPT: usize = 256;
/// One of them, bytes; what is longer is made anew each time.
pub const ALIKE_BYTES_MAX: usize = 1024;
/// Places where a shard remembers which way requests of one Host and path go.
pub const LED_KEPT: usize = 16;
/// Boxes for calls that a shard keeps to use again.
pub const CALLS_KEPT_MAX: usize = 256;
/// Parsed heads of answers that a shard keeps to parse into again.
pub const UPSTREAM_HEADS_KEPT: usize = 256;
/// An idle upstream connection is closed after this long: below the five seconds after which common servers close
/// theirs, because a request must not cross their close on the way.
pub const UPSTREAM_IDLE_MS_MAX: u64 = 4_000;
/// The rest of an answer that nobody needs is read for so long, so that its connection can be kept, milliseconds.
pub const RETIRE_MS_MAX: u64 = 100;

/// Sessions of HTTP+SSE servers on one shard: each is a connection.
pub const LINES_MAX: usize = 4 * 1024;
/// One that is out of use for so long, milliseconds, goes for a new one when there are so many.
pub const LINE_SPARE_MS: u64 = 60_000;
/// Messages under way to the server in one of them.
pub const LINE_POSTS_MAX: usize = 2 * LINE_CALLS_MAX;
/// Kept for a session's own stream while nobody reads it, bytes; what comes beyond is dropped.
pub const LINE_WAITING_BYTES_MAX: usize = 64 * 1024;
/// From the GET until the `endpoint` event, milliseconds.
pub const LINE_OPEN_MS_MAX: u64 = 10_000;
/// Until the server has taken a message, milliseconds; its answer may come later.
pub const LINE_POST_MS_MAX: u64 = 60_000;

// ---- stdio ----------------------------------------------------------------------------------------------------
/// One line that a child writes, bytes; a longer one is dropped.
pub const STDIO_LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Children of all servers together.
pub const STDIO_CHILDREN_MAX: usize = 512;
/// And of one server.
pub const STDIO_SERVER_CHILDREN_MAX: usize = 128;
/// Sessions of all servers together.
pub const STDIO_SESSIONS_MAX: usize = 64 * 1024;
/// Calls under way at a child that everybody shares.
pub const STDIO_CALLS_MAX: usize = 4 * 1024;
/// Messages on their way to one child, bytes.
pub const STDIO_QUEUED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Answers that their clients have not taken yet, of all children, bytes; a call whose answer finds no room fails.
pub const STDIO_WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A child reads what it was sent within this time, milliseconds, or it is ended.
pub const STDIO_WRITE_MS_MAX: u64 = 10_000;
/// A child whose input was closed ends by itself for so long, milliseconds; then it is told to, and after as long again
/// it is killed.
pub const STDIO_EXIT_MS_MAX: u64 = 2_000;
/// And when the gateway itself ends.
pub const STDIO_STOP_MS_MAX: u64 = 1_000;
/// What a child that has ended left in its pipes is read for so long, milliseconds.
pub const STDIO_REST_MS_MAX: u64 = 1_000;
/// A child that was asked for its era has so long to answer, milliseconds; less than the plane waits for any answer.
pub const STDIO_PROBE_MS_MAX: u64 = 5_000;
/// A child's handshake, milliseconds.
pub const STDIO_HELLO_MS_MAX: u64 = 60_000;
/// Ended children are begun anew so often in `STDIO_RESTARTS_MS`.
pub const STDIO_RESTARTS_MAX: usize = 5;
/// See there, milliseconds.
pub const STDIO_RESTARTS_MS: u64 = 60_000;
/// The pause before the second of these restarts, milliseconds; before each further one it is twice as long.
pub const STDIO_RESTART_PAUSE_MS: u64 = 250;
/// A request waits so long for a child that may not be begun yet, milliseconds; then it is told that nobody is there.
pub const STDIO_WAIT_MS_MAX: u64 = 2_000;
/// Owners whose children ended by themselves, and are remembered for it, of one server.
pub const STDIO_OWNERS_MAX: usize = 1024;
/// An owner's child in the modern era is ended when it was out of use for so long, milliseconds.
pub const STDIO_IDLE_MS_MAX: u64 = 5 * 60 * 1000;
/// A child that was only asked for its era waits so long for its first use, milliseconds.
pub const STDIO_BLANK_MS_MAX: u64 = 30_000;
/// One that is out of use for so long goes when there are too many, milliseconds.
pub const STDIO_SPARE_MS: u64 = 60_000;
/// Lines of a child's standard error that go to the log: so many at once.
pub const STDIO_LOG_LINES_MAX: u32 = 50;
/// And so many a second.
pub const STDIO_LOG_LINES_PER_S: u32 = 10;
/// One of them, bytes; the rest of it is left out.
pub const STDIO_LOG_LINE_BYTES_MAX: usize = 1024;
/// URIs that the sessions of a shared child are subscribed to, together.
pub const STDIO_WATCHED_MAX: usize = 16 * 1024;
/// Buffers of the children's thread, bytes.
pub const STDIO_BUFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The stack of a thread that waits for a child, bytes.
pub const STDIO_STACK_BYTES: usize = 128 * 1024;

// ---- identity -------------------------------------------------------------------------------------------------
/// A bearer token, bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Verified tokens remembered per shard.
pub const TOKENS_CACHED_MAX: usize = 4096;
/// Clock difference forgiven for token times, seconds.
pub const TOKEN_LEEWAY_S: u64 = 30;
/// A key set document, bytes.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// Keys in one set.
pub const KEYS_MAX: usize = 100;
/// Shortest RSA modulus, bits.
pub const RSA_BITS_MIN: usize = 2048;
/// Longest RSA modulus, bits: its verification still costs less than a millisecond.
pub const RSA_BITS_MAX: usize = 8192;
/// All tokens remembered by one shard together, bytes.
pub const TOKENS_CACHED_BYTES_MAX: usize = 8 * 1024 * 1024;

// ---- oauth ----------------------------------------------------------------------------------------------------
/// Between two looks at an issuer's keys (default of `jwks.refresh`).
pub const KEYS_REFRESH_MS: u64 = 300_000;
/// Keys that could not be looked at again are believed for so long (default of `jwks.stale`).
pub const KEYS_STALE_MS: u64 = 3_600_000;
/// The least that an operator may make of either, milliseconds.
pub const KEYS_TIME_MS_MIN: u64 = 1_000;
/// What an issuer says of an opaque token is believed for so long (default of `introspection.cache`).
pub const INTROSPECTION_CACHE_MS: u64 = 30_000;
/// And the most that it can be.
pub const INTROSPECTION_CACHE_MS_MAX: u64 = 300_000;
/// An issuer is asked for an unknown key once in so long, milliseconds, whoever asks.
pub const KEYS_UNKNOWN_MS: u64 = 30_000;
/// What an answer says of how long it holds is believed down to this, milliseconds.
pub const KEYS_HOLD_MS_MIN: u64 = 60_000;
/// After an issuer could not be asked, it is tried again after so long, milliseconds; each time in a row twice as long.
pub const KEYS_RETRY_MS: u64 = 1_000;
/// And at most so long.
pub const KEYS_RETRY_MS_MAX: u64 = 60_000;
/// How often the thread of the issuers looks whether something is due, milliseconds.
pub const KEYS_LOOK_MS: u64 = 200;
/// A document or token that is fetched: all of it, from the first look at its host's name on, milliseconds.
pub const FETCH_MS_MAX: u64 = 5_000;
/// And bytes.
pub const FETCH_BYTES_MAX: usize = 256 * 1024;
/// And its URL, bytes.
pub const FETCH_URL_BYTES_MAX: usize = 2 * 1024;
/// And the head of the answer, bytes.
pub const FETCH_HEAD_BYTES_MAX: usize = 32 * 1024;
/// Documents that are fetched from one host at a time.
pub const FETCH_DOCUMENTS_PER_HOST: usize = 1;
/// And tokens: more than ask about opaque ones, so that these leave turns to those who fetch tokens there.
pub const FETCH_TOKENS_PER_HOST: usize = 12;
/// Names that are looked up at a time: a look-up that nobody waits for any more cannot be called back.
pub const FETCH_LOOKUPS_MAX: usize = 32;
/// Addresses of one name that are tried, the first ones.
pub const FETCH_ADDRESSES_MAX: usize = 16;
/// Tokens for servers that are kept, in all.
pub const CREDENTIALS_MAX: usize = 65_536;
/// Callers' opaque tokens that are kept, in all.
pub const INTROSPECTIONS_MAX: usize = 65_536;
/// What an issuer says of one of them, bytes: twice a signed token.
pub const INTROSPECTION_BYTES_MAX: usize = 2 * TOKEN_BYTES_MAX;
/// Opaque tokens that wait until their issuer is asked: at the pace below, those who wait are told in time.
pub const INTROSPECTIONS_WAITING_MAX: usize = 512;
/// Issuers are asked about so many tokens a second that nobody was let in by, in all.
pub const INTROSPECTIONS_PER_S_MAX: u64 = 200;
/// Threads that ask.
pub const INTROSPECTION_THREADS: usize = 8;
/// And so many of them do nothing but ask about tokens that nobody was let in by: those in use keep nobody out.
pub const INTROSPECTION_THREADS_FIRST: usize = 2;
/// So many times in a row nothing was said, which a token's bearer may have brought about, until the issuer is left alone.
pub const INTROSPECTION_DOUBTS_MAX: u32 = 3;
/// A token that is not active is known as that for so long, milliseconds.
pub const INTROSPECTION_NEGATIVE_MS: u64 = 10_000;
/// An issuer that could not be asked is asked again after so long, milliseconds, and each time after twice as long.
pub const INTROSPECTION_RETRY_MS: u64 = 1_000;
/// And at most so long.
pub const INTROSPECTION_RETRY_MS_MAX: u64 = 10_000;
/// A shorter token is opaque to nobody: it is guessed, and no issuer is asked about it, bytes.
pub const OPAQUE_TOKEN_BYTES_MIN: usize = 8;
/// How often streams look whether their callers' opaque tokens are still believed, milliseconds.
pub const LIVENESS_LOOK_MS: u64 = 500;
/// Errands that wait for the plane, of one kind.
pub const ERRANDS_MAX: usize = 4_096;
/// Tokens that are fetched at one time, for all servers.
pub const ERRAND_THREADS: usize = 32;
/// And for one server, or from one host.
pub const ERRANDS_AT_ONCE_MAX: usize = 8;
/// Those on one shard that wait for the plane to bring something.
pub const ERRAND_WAITERS_MAX: usize = 1_024;
/// And of these so many calls of one owner.
pub const ERRAND_WAITERS_OF_ONE_MAX: usize = ERRAND_WAITERS_MAX / 8;
/// And of these so many callers of whom it is not known yet who they are, for keys, and as many for issuers' words: what
/// they leave is for callers who are known.
pub const STRANGERS_WAITING_MAX: usize = ERRAND_WAITERS_MAX * 3 / 8;
/// A client's assertion of who it is is good for so long, seconds.
pub const ASSERTION_S: u64 = 60;
/// A token that was fetched for a server, bytes.
pub const ISSUED_TOKEN_BYTES_MAX: usize = 8 * 1024;
/// A token whose issuer does not say how long it holds is used for so long, milliseconds.
pub const ISSUED_MS_DEFAULT: u64 = 300_000;
/// And no token for longer, whatever its issuer says.
pub const ISSUED_MS_MAX: u64 = 24 * 3_600_000;
/// A token is used no more so long before its end, milliseconds, or a tenth of its life where that is longer.
pub const ISSUED_MARGIN_MS: u64 = 10_000;
/// A token that could not be had is asked for again after so long, milliseconds; each time that nothing could be had for
/// a server, after twice as long.
pub const ERRAND_RETRY_MS_MIN: u64 = 1_000;
/// But no later than this.
pub const ERRAND_RETRY_MS_MAX: u64 = 30_000;
/// A caller's token that was not exchanged is tried again after so long, milliseconds.
pub const ERRAND_DECLINED_MS: u64 = 5_000;
/// Of such callers the log is told once in so long for each server, milliseconds.
pub const TOLD_AGAIN_MS: u64 = 60_000;
/// What is revoked, or gone with a reload, is looked for this often among the tokens for servers, milliseconds.
pub const BROKER_LOOK_MS: u64 = 100;
/// A call waits so long for what has to be fetched for it, milliseconds.
pub const ERRAND_WAIT_MS_MAX: u64 = 6_000;

/// What a shard keeps of what servers are shown, entries.
pub const SHOWN_KNOWN_MAX: usize = 8_192;
/// What was out of use for so long to twice as long is let go of, milliseconds.
pub const SHOWN_AGE_MS: u64 = 60_000;
/// Whether a token that was fetched still holds is looked at again after so long, milliseconds.
pub const SHOWN_CHECK_MS: u64 = 1_000;
/// A call for which no token could be had in time is worth another try after so long, milliseconds.
pub const SHOWN_RETRY_MS: u64 = 1_000;
/// A token that its server refuses is fetched anew once in so long, milliseconds.
pub const CREDENTIAL_KEPT_MS: u64 = 10_000;
/// What servers have shown callers of their lists, in all; and of one server.
pub const VIEWS_MAX: usize = 8_192;
/// All of that, each only once where callers are shown the same, bytes.
pub const VIEWS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// What is over is looked for that often, milliseconds.
pub const VIEWS_TEND_MS: u64 = 1_000;
/// Looks at lists in callers' names that wait for the plane.
pub const VIEWS_WAITING_MAX: usize = 1_024;
/// Looks at one time, for all servers.
pub const VIEW_THREADS: usize = 16;
/// And for one server.
pub const VIEWS_AT_ONCE_MAX: usize = 2;
/// One look takes so long at most, but for the answer that it waits for then, milliseconds.
pub const VIEW_LOOK_MS_MAX: u64 = 8_000;
/// What a caller was shown is what it may call for so long after the server says that it may have changed, while nothing
/// newer can be had, milliseconds.
pub const VIEW_KEPT_MS: u64 = 600_000;
/// While it is called by, it is looked at again no sooner than this after the last time, milliseconds.
pub const VIEW_AGAIN_MS_MIN: u64 = 5_000;
/// A message waits so long for such a look, milliseconds.
pub const VIEW_WAIT_MS_MAX: u64 = 10_000;
/// One that came to nothing is tried again after so long, milliseconds; each time that its server does not answer
/// anybody, after twice as long.
pub const VIEW_FAILED_MS: u64 = 2_000;
/// But no later than this.
pub const VIEW_FAILED_MS_MAX: u64 = 30_000;
/// What one has brought is in a snapshot after so long at most, milliseconds.
pub const VIEW_PUBLISHED_MS_MAX: u64 = 2_000;
/// Threads that wait for errands look that often whether they are to end, milliseconds.
pub const ERRAND_TAKE_MS: u64 = 200;
/// What a server is told of a caller in one field, bytes.
pub const IDENTITY_VALUE_BYTES_MAX: usize = 4_096;

// ---- telemetry ------------------------------------------------------------------------------------------------
/// Spans of one shard that wait for the plane.
pub const SPANS_MAX: usize = 4_096;
/// The plane takes spans from the shards this often, milliseconds.
pub const OTLP_DRAIN_MS: u64 = 500;
/// Spans of one message to the collector.
pub const OTLP_BATCH_SPANS_MAX: usize = 512;
/// Series of metrics of one message to it.
pub const OTLP_SERIES_MAX: usize = 2_000;
/// Spans that wait for it, as messages, bytes.
pub const OTLP_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is read of its answer, bytes.
pub const OTLP_ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The first pause after it has failed, milliseconds; each next one is twice as long.
pub const OTLP_PAUSE_MS: u64 = 1_000;
/// The longest, also of those that it asks for, milliseconds.
pub const OTLP_PAUSE_MS_MAX: u64 = 60_000;
/// What is left when the gateway ends is sent for so long, milliseconds; with one more turn of the spans' thread that
/// makes two seconds.
pub const OTLP_LAST_MS_MAX: u64 = 1_500;
/// Between two pushes of metrics (default of `otlp.interval`).
pub const OTLP_INTERVAL_MS: u64 = 15_000;
/// The least that it can be.
pub const OTLP_INTERVAL_MS_MIN: u64 = 100;
/// One push may take so long (default of `otlp.timeout`).
pub const OTLP_TIMEOUT_MS: u64 = 5_000;
/// The most that it can be.
pub const OTLP_TIMEOUT_MS_MAX: u64 = 60_000;
/// `tracestate` and `baggage` of a caller: longer ones are dropped, bytes each.
pub const TRACE_FIELD_BYTES_MAX: usize = 8 * 1024;
/// All texts of one span, bytes; one that finds no room is left out and counted.
pub const SPAN_TEXT_BYTES_MAX: usize = 768;
/// One of them, bytes: a URI that is longer is left out.
pub const SPAN_TEXT_BYTES_EACH_MAX: usize = 512;
/// Texts of one span: its rules, and room for all others.
pub const SPAN_TEXTS_MAX: usize = RULES_NAMED_MAX + 9;

// ---- session --------------------------------------------------------------------------------------------------
/// An upstream's session id, bytes.
pub const UPSTREAM_SESSION_BYTES_MAX: usize = 256;
/// A sealed session id, characters: no shorter and no longer.
pub const SESSION_ID_BYTES_MAX: usize = 120;
/// A server's own task id inside a sealed one, bytes.
pub const TASK_ID_BYTES_MAX: usize = 256;
/// A sealed task id as presented, characters.
pub const TASK_HANDLE_BYTES_MAX: usize = 512;
/// A sealed cursor of a list, characters: no shorter and no longer.
pub const CURSOR_BYTES: usize = 96;
/// What a question to an agent's own user keeps of its call for the call's server, bytes.
pub const QUESTION_REST_BYTES_MAX: usize = 16 * 1024;
/// A sealed question as presented, characters.
pub const QUESTION_STATE_BYTES_MAX: usize = 24 * 1024;
/// A message looks again so often whether the session that another opens is there, milliseconds.
pub const WAY_WAIT_MS: u64 = 10;
/// Of a server's refusal of a stream so much is looked at, bytes.
pub const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// What a stream's connection is sent at once, bytes; more of one event only.
pub const STREAM_PIECE_BYTES: usize = 32 * 1024;
/// A client whose connection was cut comes back after this long, milliseconds, and a server's stream that has ended is
/// asked for again.
pub const STREAM_RETRY_MS: u64 = 1_000;
/// But not sooner than after this long, milliseconds, whatever the server says.
pub const STREAM_RETRY_MS_MIN: u64 = 100;
/// And after this long at the latest.
pub const STREAM_RETRY_MS_MAX: u64 = 30_000;
/// The id of a server's event, where its stream is to go on, bytes.
pub const UPSTREAM_EVENT_ID_BYTES_MAX: usize = 1024;
/// Streams that nobody reads, and that a shard keeps for a while: those of sessions and those that were answers, each.
pub const FEEDS_ALONE_MAX: usize = 4096;
/// Events that a shard keeps, of all streams, bytes.
pub const FEEDS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What changes in lists within so many milliseconds, a client is told at once.
pub const LISTS_GATHERED_MS: u64 = 100;
/// And up to so many milliseconds later, so that not all clients ask at the same moment.
pub const LISTS_SPREAD_MS: u64 = 400;
/// A client may take so long to answer what a server asks, milliseconds.
pub const ASK_MS_MAX: u64 = 10 * 60 * 1000;
/// Connections that read one session's events at a time; the oldest ends when there is one more.
pub const OUTLET_TAPS_MAX: usize = 8;
/// Streams of one session's events that can be resumed: the latest.
pub const OUTLET_STREAMS_MAX: usize = 16;
/// Events of a stream that wait to be sent before its upstream is paused.
pub const STREAM_WAITING_EVENTS_MAX: usize = 4096;
/// Events that were sent are kept to be sent again: of each stream so many bytes.
pub const STREAM_KEPT_BYTES_MAX: usize = 64 * 1024;
/// And so many events.
pub const STREAM_KEPT_EVENTS_MAX: usize = 1024;

// ---- ledger ---------------------------------------------------------------------------------------------------
/// Sessions of all owners (default of `sessions.max`).
pub const SESSIONS_MAX: usize = 128 * 1024;
/// No count of sessions can be set higher.
pub const PROCESS_SESSIONS_MAX: usize = 1024 * 1024;
/// Sessions of one owner (default of `sessions.per_subject`).
pub const SESSIONS_PER_SUBJECT_MAX: usize = 4096;
/// A session without a request, milliseconds (default of `sessions.idle`).
pub const SESSION_IDLE_MS_MAX: u64 = 8 * 60 * 60 * 1000;
/// A session, from its begin, milliseconds (default of `sessions.lifetime`).
pub const SESSION_LIFETIME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Locks that the ledger is behind.
pub const LEDGER_STRIPES: usize = 64;
/// A shard says so often that a session is in use, seconds.
pub const SESSION_TOUCH_S: u64 = 60;
/// A session that was unused for so long may go for a new one of its owner's, seconds.
pub const SESSION_SPARE_S: u64 = 60;
/// What a client began with, bytes.
pub const PROFILE_BYTES_MAX: usize = 4 * 1024;
/// Different ones that are remembered.
pub const PROFILES_MAX: usize = 1_024;
/// Servers that one session is open at.
pub const SESSION_SERVERS_MAX: usize = 64;
/// Subscriptions that are remembered of one session.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// And their bytes.
pub const SUBSCRIBED_BYTES_MAX: usize = 16 * 1024;
/// And those of all sessions.
pub const LEDGER_SUBSCRIBED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Ended sessions that a stripe remembers.
pub const TOMBSTONES_MAX: usize = 1_024;
/// Ended by the ledger itself, and not yet told of, in one stripe.
pub const PARTINGS_MAX: usize = 256;
/// Sessions of one stripe that are being opened at servers.
pub const LEASES_MAX: usize = 256;
/// Who opens a session at a server has so long, milliseconds.
pub const LEASE_MS: u64 = 10_000;
/// Places that a sweep looks at while it holds a stripe.
pub const SWEEP_LOOKS: usize = 64;
/// One entry of the journal of sessions, bytes.
pub const JOURNAL_ENTRY_BYTES_MAX: usize = 64 * 1024;
/// What a stripe has changed, and nobody has written down yet, bytes; beyond that all of it is written down anew.
pub const JOURNAL_PENDING_BYTES_MAX: usize = 128 * 1024;
/// How often the journal is written, milliseconds.
pub const JOURNAL_PAUSE_MS: u64 = 20;
/// A journal shorter than this is not written anew, bytes.
pub const JOURNAL_BYTES_MIN: u64 = 256 * 1024;
/// Questions of servers that one session has not answered.
pub const SESSION_ASKS_MAX: usize = 64;
/// And all sessions.
pub const ASKS_MAX: usize = 16 * 1024;
/// Of which one server may have so many in each stripe of the ledger: half of all.
pub const SERVER_ASKS_MAX: usize = ASKS_MAX / LEDGER_STRIPES / 2;

/// Counts of limits and rates, of all owners.
pub const COUNTS_MAX: usize = (COUNTS_STRIPE_MAX + COUNTS_STRIPE_SHADOW_MAX) * LEDGER_STRIPES;
/// And of one stripe, of rules that are enforced.
pub const COUNTS_STRIPE_MAX: usize = 16 * 1024;
/// And of those in shadow, which take no room of the others.
pub const COUNTS_STRIPE_SHADOW_MAX: usize = COUNTS_STRIPE_MAX / 8;
/// Entries that the window of a count keeps apart.
pub const COUNT_ENTRIES_MAX: usize = 256;
/// And when those of its stripe take too much.
pub const COUNT_ENTRIES_MIN: usize = 4;
/// And of what was only noted.
pub const COUNT_NOTES_MAX: usize = 8;
/// What the entries of a stripe take before its windows keep fewer apart, bytes.
pub const COUNTS_STRIPE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// And before those of rules in shadow do, bytes.
pub const COUNTS_STRIPE_SHADOW_BYTES_MAX: usize = COUNTS_STRIPE_BYTES_MAX / 8;
/// Counts looked at for one that is over, where there is no room for a new one.
pub const COUNT_LOOKS_MAX: usize = 64;
/// A clock that falls back no further is another thread's, milliseconds.
pub const COUNT_BACK_MS_MAX: u64 = 60_000;
/// Changes of counts that are not in the journal yet, and outlive the process all the same.
pub const COUNT_RING_SLOTS: usize = 64 * 1024;
/// Changes that are written into the journal at once.
pub const COUNT_BATCH_RECORDS: u64 = 4 * 1024;
/// And so often each time its thread comes around.
pub const COUNT_BATCHES_MAX: usize = 32;
/// Records of one frame of the journal.
pub const COUNT_FRAME_RECORDS_MAX: usize = COUNT_RING_SLOTS;
/// Counts of a stripe that are written down while it is held.
pub const COUNT_PICTURE_LOOKS: usize = 8;
/// A journal of counts shorter than this is not written anew, bytes.
pub const COUNTS_JOURNAL_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// A change that is begun is ended within this time, milliseconds, or it never is.
pub const COUNT_SETTLE_MS_MAX: u64 = 5_000;
/// The log hears so often of what was refused for want of room for counts, milliseconds.
pub const COUNTS_TOLD_MS: u64 = 10_000;
/// Stripes in which the journal's thread looks for counts that are over, each time it comes around.
pub const COUNT_SWEEP_STRIPES: usize = 8;

/// Calls under way in one session of an HTTP+SSE server.
pub const LINE_CALLS_MAX: usize = 256;

// ---- mcp, policy ----------------------------------------------------------------------------------------------
/// Tools and prompts of all servers together.
pub const ITEMS_MAX: usize = 64 * 1024;
/// One tool, prompt or resource definition, bytes.
pub const DEFINITION_BYTES_MAX: usize = 64 * 1024;
/// Nesting of one definition; what reads them gives up at the same depth.
pub const DEFINITION_DEPTH_MAX: usize = 127;
/// Items of one list of one server.
pub const LIST_ITEMS_MAX: usize = 10_000;
const _: () = assert!(PINS_MAX >= 4 * LIST_ITEMS_MAX, "the pins of a server hold all that its four lists can");
/// Pages of one list.
pub const LIST_PAGES_MAX: usize = 1_000;
/// Entries of one page of a merged list.
pub const LIST_PAGE_ITEMS: usize = 1_000;
/// And its bytes; a page has at least one entry.
pub const LIST_PAGE_BYTES: usize = 1024 * 1024;
/// What one server's instructions add to those of an endpoint with several, bytes.
pub const INSTRUCTIONS_SERVER_BYTES_MAX: usize = 4 * 1024;
/// The instructions of an endpoint with several servers, bytes.
pub const INSTRUCTIONS_BYTES_MAX: usize = 16 * 1024;
/// URI templates of an endpoint with several servers that a URI is compared with; those beyond are written with their
/// server's prefix.
pub const MERGED_TEMPLATES_MAX: usize = 1_024;
/// URIs of other servers that a template is compared with before it is taken for one that could mean any of them.
pub const MERGED_LOOKS_MAX: usize = 1_024;
/// Things worth a warning that are told of one endpoint.
pub const MERGE_WARNINGS_MAX: usize = 256;
/// A tool's name above this many characters is worth a warning: common model providers take no longer one.
pub const TOOL_NAME_CHARACTERS_WARN: usize = 64;
/// Rules of a policy.
pub const RULES_MAX: usize = 100_000;
/// Tasks of a policy.
pub const TASKS_MAX: usize = 1_024;
/// Failures in a row that eject an instance (default of a server's `health.failures`).
pub const HEALTH_FAILURES_DEFAULT: u32 = 5;
/// And the most that it can be.
pub const HEALTH_FAILURES_MAX: u32 = 1_000;
/// The first ejection of an instance, milliseconds (default of a server's `health.open`).
pub const HEALTH_OPEN_MS_DEFAULT: u64 = 5_000;
/// The longest ejection, milliseconds.
pub const HEALTH_OPEN_MS_MAX: u64 = 300_000;
/// Between two probes of an instance, milliseconds (default of a server's `health.interval` where it has several).
pub const HEALTH_INTERVAL_MS_DEFAULT: u64 = 10_000;
/// And the least that it can be.
pub const HEALTH_INTERVAL_MS_MIN: u64 = 100;
/// One probe, milliseconds: less where probes follow each other faster.
pub const HEALTH_PROBE_MS_MAX: u64 = 2_000;
/// Servers of a configuration.
pub const SERVERS_MAX: usize = 1_024;
/// Name of a tool or prompt, bytes (the specification advises 128 characters).
pub const ITEM_NAME_BYTES_MAX: usize = 1_024;
/// `x-mcp-header` annotations of one tool.
pub const PARAM_HEADERS_MAX: usize = 64;
/// Entries of `inputRequests` in one result.
pub const INPUT_REQUESTS_MAX: usize = 64;
/// The URI that an HTTP+SSE server names for messages, bytes.
pub const ENDPOINT_BYTES_MAX: usize = 2 * 1024;
/// URIs of one `subscriptions/listen`.
pub const LISTEN_URIS_MAX: usize = 1_024;
/// Tasks of the tasks extension in one `subscriptions/listen`.
pub const LISTEN_TASKS_MAX: usize = 256;
/// One pattern of a rule, bytes.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// A resource's URI or template that policy looks at, bytes; a longer one is refused.
pub const URI_BYTES_MAX: usize = 8 * 1024;
/// Nesting of an argument or claim that conditions look into; no message and no token has more.
pub const VALUE_DEPTH_MAX: usize = 128;
/// A pattern of a condition when compiled, bytes.
pub const REGEX_PROGRAM_BYTES_MAX: usize = 64 * 1024;
/// What looking for one keeps on each shard to be quick, bytes.
pub const REGEX_CACHE_BYTES_MAX: usize = 512 * 1024;
/// Nesting of one.
pub const REGEX_DEPTH_MAX: u32 = 64;
/// Host and port of a URL that conditions look into, bytes: a name of 255 letters, none of them ASCII.
pub const URL_AUTHORITY_BYTES_MAX: usize = 1_024;
/// How long an approval is waited for, and good for, where a rule does not say, milliseconds.
pub const APPROVAL_MS: u64 = 15 * 60 * 1000;
/// And the least that a rule can say.
pub const APPROVAL_MS_MIN: u64 = 1_000;
/// Different `who` of a policy: each is asked once of every token.
pub const HEADS_MAX: usize = 4_096;
/// Entries of one rule's `limits`.
pub const RULE_LIMITS_MAX: usize = 16;
/// Scopes that a metadata document names: those of every permit would be a list that no client asks for.
pub const SCOPES_SUPPORTED_MAX: usize = 128;
/// A quoted value of a challenge: the longest is a list of scopes, the base ones and those of the permits that apply.
pub const CHALLENGE_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Names of an `Access-Control-Request-Headers` that are looked at.
pub const PREFLIGHT_NAMES_MAX: usize = 64;
/// A browser asks again after so long, seconds (two hours is the most that any believes).
pub const PREFLIGHT_S: u64 = 7_200;
/// A client may keep a metadata document for so long, seconds.
pub const METADATA_S: u64 = 300;
/// Scopes of one rule.
pub const RULE_SCOPES_MAX: usize = 16;
/// Owners that one count is kept apart by.
pub const LIMIT_PARTIES_MAX: usize = 4;
/// Calls that a limit or rate can count to.
pub const LIMIT_CALLS_MAX: u64 = 1_000_000_000;
/// Calls under way that a limit or rate can count to.
pub const LIMIT_CONCURRENT_MAX: u64 = 1_000_000;
/// A time that a limit or rate can speak of, milliseconds: a leap year.
pub const LIMIT_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;
/// Rates of a policy.
pub const RATES_MAX: usize = 256;
/// Patterns of `audit.arguments`, and arguments of each.
pub const AUDIT_ARGUMENTS_MAX: usize = 1_024;
/// One condition, bytes.
pub const COND_BYTES_MAX: usize = 4 * 1024;
/// Operators of a condition within each other, and steps of one path.
pub const COND_DEPTH_MAX: usize = 32;
/// `all` and `exists` within each other.
pub const COND_LOOPS_MAX: usize = 2;
/// Elements of one list of a condition.
pub const COND_LIST_MAX: usize = 1_024;
/// What one evaluation of a condition may cost, in steps of about eight nanoseconds: beyond them it is unknown.
pub const COND_STEPS_MAX: u32 = 12_500;
/// Different paths into the arguments that one condition has, and into the claims: `Dead` has a bit for each.
pub const COND_PATHS_MAX: usize = 64;
/// What a person is shown of one call, arguments and names together, bytes; about a larger one nobody is asked, and it
/// is refused.
pub const APPROVAL_BYTES_MAX: usize = 64 * 1024;
/// What an agent's own user is shown of one argument, letters; what is left out is counted.
pub const QUESTION_ARGUMENT_LETTERS_MAX: usize = 400;
/// And of all arguments of a call, letters; about one with more than that nobody is asked.
pub const QUESTION_LETTERS_MAX: usize = 4_000;
/// Approvals of all subjects, with what is decided and has not expired.
pub const APPROVALS_MAX: usize = 1_024;
/// And of one subject.
pub const APPROVALS_OF_SUBJECT_MAX: usize = 64;
/// And what they take, bytes: room for sixteen of the largest.
pub const APPROVALS_OF_SUBJECT_BYTES_MAX: usize = 1024 * 1024;
/// And what all of them show, bytes.
pub const APPROVALS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Revocations in force.
pub const REVOCATIONS_MAX: usize = 16 * 1024;
/// What is revoked, or why, bytes each.
pub const REVOCATION_TEXT_BYTES_MAX: usize = 1_024;
/// A `jti` that is given where a token is expected, bytes.
pub const REVOCATION_JTI_BYTES_MAX: usize = 256;
/// Rules named in one permit or refusal: the first ones in the order of the file.
pub const RULES_NAMED_MAX: usize = 8;
/// Arguments that conditions ask for in vain, told of one policy.
pub const MISFITS_MAX: usize = 256;
/// Misfits that one new catalogue has written into the log and the record; of more, how many.
pub const MISFITS_TOLD_MAX: usize = 32;
/// Names of arguments that one which no tool has is compared with.
pub const ARGUMENTS_COMPARED_MAX: usize = 256;
/// Schemas looked at on the way of one path through the schema of a tool's arguments.
pub const SCHEMA_STEPS_MAX: usize = 256;
/// Classes of callers that a compiled policy keeps.
pub const CLASSES_MAX: usize = 8 * 1024;
/// And their bytes; a caller of a class that finds no room is decided on more slowly.
pub const CLASSES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Tools and prompts of a class whose permits are remembered.
pub const CLASS_PERMITS_KEPT: usize = 16;
/// What one call may need of limits and rates together; one that needs more is refused.
pub const NEEDS_MAX: usize = 64;

// ---- uring ----------------------------------------------------------------------------------------------------
/// Buffers waiting to be used again, bytes: a burst's memory goes back to the allocator.
pub const BUFFERS_KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// And of those that nobody needed for a while, so many stay, bytes.
pub const BUFFERS_SPARE_BYTES: usize = 1024 * 1024;
/// How often a shard looks for memory that nobody needs, milliseconds.
pub const TRIM_MS: u64 = 1_000;
/// Answers the kernel can lay down before we look. Beyond them it keeps a list of its own, which costs an allocation
/// each but loses nothing.
pub const RING_COMPLETIONS: u32 = 8 * 1024;
/// Operations handed to the kernel at once; more in one turn only cost another system call.
pub const RING_SUBMISSIONS: u32 = 1024;
/// What the wait for a request gets: most requests fit, and a connection that waits holds no more.
pub const WAITING_BYTES: usize = 4 * 1024;
/// What a new read gets.
pub const BUFFER_BYTES: usize = 16 * 1024;
/// All buffers of one shard together, bytes.
pub const SHARD_BUFFER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A connection is probed after so long a silence (SO_KEEPALIVE), milliseconds.
pub const KEEPALIVE_IDLE_MS: u64 = 15_000;
/// Between two probes, milliseconds.
pub const KEEPALIVE_PROBE_MS: u64 = 5_000;
/// Unanswered probes after which it is over.
pub const KEEPALIVE_PROBES: u32 = 3;
/// Operations that epoll may find ready one after the other before other tasks get their turn.
pub const OPERATIONS_IN_A_ROW_MAX: u32 = 32;
/// Step of the timer wheel, milliseconds.
pub const TICK_MS: u64 = 10;
/// So long a shard goes by the processor's counter before it looks at the kernel's clocks again, milliseconds.
pub const CLOCK_HOLD_MS: u64 = 5;
/// The counter's rate is measured over so long at least, milliseconds, ...
pub const CLOCK_RATE_MS_MIN: u64 = 20;
/// ... and begun anew after so long.
pub const CLOCK_RATE_MS_MAX: u64 = 1_000;
/// A look at the kernel's clocks that was interrupted is repeated until there were so many.
pub const CLOCK_LOOKS_MAX: u32 = 3;

// ---- record ---------------------------------------------------------------------------------------------------
/// A keeper only waits and parses.
pub const KEEPER_STACK_BYTES: usize = 512 * 1024;
/// The ring that carries one shard's records to the plane, bytes.
pub const RECORD_RING_BYTES: usize = 8 * 1024 * 1024;
/// No decision takes this last part of the ring: it belongs to the outcomes of calls already let go.
pub const RECORD_RING_KEPT_FREE_BYTES: usize = RECORD_RING_BYTES / 4;
/// One outcome frame, bytes.
pub const OUTCOME_BYTES_MAX: usize = 96;
/// One record frame, bytes; longer texts are cut and marked.
pub const RECORD_BYTES_MAX: usize = 48 * 1024;
/// What only some decisions have (limits, approvals, arguments), bytes; what finds no room is left out and marked.
pub const RECORD_DETAIL_BYTES_MAX: usize = 8 * 1024;
/// One text of a record, bytes.
pub const RECORD_TEXT_BYTES_MAX: usize = 2 * 1024;
/// What the log writes at once, bytes of frames: no more is taken from a ring before it is written.
pub const LOG_PIECE_BYTES: usize = 128 * 1024;
/// What decisions have in common, kept as the text it makes: pairs of places for it.
pub const LOG_COMMON_PAIRS: usize = 512;
/// One of them, with its text, bytes; what is longer is made anew each time.
pub const LOG_COMMON_BYTES_MAX: usize = 4 * 1024;
/// News of servers that comes within this time makes one snapshot, milliseconds.
pub const PUBLISH_GATHER_MS: u64 = 20;
/// Changed lists make a snapshot, and compile the policy, no more often than this, milliseconds.
pub const PUBLISH_MS_MIN: u64 = 1_000;
/// One request on the admin listener, milliseconds.
pub const ADMIN_ANSWER_MS_MAX: u64 = 2_000;
/// The head of one, from whoever has not shown a token yet, milliseconds.
pub const ADMIN_HEAD_MS_MAX: u64 = 500;
/// Connections of the admin listener whose token was not seen; each has a thread, and the oldest makes room.
pub const ADMIN_STRANGERS_MAX: usize = 64;
/// What the command line waits for what it has told a gateway to do, milliseconds.
pub const ADMIN_ORDER_MS_MAX: u64 = 60_000;
/// The kernel lets go of a killed predecessor's listeners with its ring, some time after its end: a start waits for a
/// port so long, milliseconds.
pub const PORT_WAIT_MS_MAX: u64 = 2_000;
/// And for the state folder of one that is about to end, milliseconds.
pub const STATE_WAIT_MS_MAX: u64 = 2_000;
/// Definitions of one server that its pins remember, those that it offers no more included.
pub const PINS_MAX: usize = 64 * 1024;
/// What pins keep of the definitions' own text, bytes of one server; of the others the hash is left.
pub const PINS_TEXT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A file of pins, bytes: twice the text, and as much again for names and hashes.
pub const PINS_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The file of revocations, bytes: room for the largest of them, each letter escaped.
pub const REVOCATIONS_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How often approvals that have expired are dropped, and what was written of them is brought to the disk,
/// milliseconds.
pub const APPROVALS_LOOK_MS: u64 = 1_000;
/// The file of approvals, bytes: it is written anew long before.
pub const APPROVALS_FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Below this it is not written anew, bytes.
pub const APPROVALS_FILE_BYTES_MIN: u64 = 1024 * 1024;
/// What is sent to the admin listener with one request, bytes.
pub const ADMIN_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Requests of people that the admin listener works on at a time; each has a thread.
pub const ADMIN_WORKERS_MAX: usize = 16;
/// How often the files of pins are looked at, milliseconds: an approval shows within a second.
pub const PINS_LOOK_MS: u64 = 300;
/// And tried again, where they could not be read or written.
pub const PINS_RETRY_MS: u64 = 5_000;
/// New and changed definitions that are named in the log at a time; of the others the number is told.
pub const PINS_NAMED_MAX: usize = 16;
/// Letters shown on either side of a difference within a line.
pub const PINS_SHOWN_LETTERS_MAX: usize = 60;
/// New and changed definitions that are told in the record at a time; of the others the number is.
pub const PINS_RECORDED_MAX: usize = 256;
/// Lines of the plane's own that wait for the record's thread.
pub const NOTES_MAX: usize = 1024;
/// At start, the servers get so long to introduce themselves before the gateway says what it knows, milliseconds.
pub const START_WAIT_MS_MAX: u64 = 500;
/// A supervisor's watchdog below this is missed by a busy machine now and then, milliseconds.
pub const WATCHDOG_MS_MIN: u64 = 1_000;
/// One file of the log, bytes; then the next is begun.
pub const LOG_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long the log sleeps when it finds the rings empty, milliseconds; each time in a row twice as long.
pub const LOG_PAUSE_MS: u64 = 5;
/// And at most so long: far less than the rings take to fill.
pub const LOG_PAUSE_MS_MAX: u64 = 40;
/// How long it waits after the disk refused, milliseconds.
pub const LOG_RETRY_MS: u64 = 250;
/// Rules named in one record.
pub const RECORD_RULES_MAX: usize = 8;

// ---- config ---------------------------------------------------------------------------------------------------
/// The file, bytes.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Nesting of the file.
pub const CONFIG_DEPTH_MAX: usize = 32;
/// Values and keys of the file together, after its aliases are resolved: room for `RULES_MAX` rules.
pub const CONFIG_NODES_MAX: usize = 4_000_000;
/// Values that the file's aliases stand for, all uses together: an alias bomb stops here.
pub const CONFIG_ALIASED_MAX: usize = 20_000;
/// A text after its `${…}` are replaced, and a file named by one, bytes.
pub const CONFIG_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Files that `policy.include` finds, all patterns together.
pub const INCLUDED_FILES_MAX: usize = 1_024;
/// Entries of a folder that a pattern of `policy.include` looks into.
pub const INCLUDED_FOLDER_ENTRIES_MAX: usize = 16 * 1024;
/// Networks that one `private` names.
pub const NETWORKS_MAX: usize = 64;
/// Fields that a server is told of callers in, that a collector wants, attributes of the resource; audiences, resources
/// and scopes of one key: of each.
pub const CONFIG_ITEMS_MAX: usize = 32;
/// A secret, bytes.
pub const SECRET_BYTES_MAX: usize = 8 * 1024;
/// Issuers of a configuration.
pub const ISSUERS_MAX: usize = 64;
/// Endpoints of a configuration besides `/s/NAME/mcp`.
pub const ENDPOINTS_MAX: usize = 1_024;
/// Instances of one server.
pub const SERVER_INSTANCES_MAX: usize = 64;
/// Arguments of a server's command.
pub const COMMAND_ARGS_MAX: usize = 256;
/// Variables of a command's environment.
pub const COMMAND_ENV_MAX: usize = 256;
/// Listeners of a configuration.
pub const LISTENERS_MAX: usize = 16;
/// The longest that a shard looks for more instead of sleeping, microseconds (`spin_us`).
pub const SPIN_US_MAX: u64 = 1_000;
/// Shards of a process.
pub const SHARDS_MAX: u16 = 512;
/// A name of the configuration (server, task, rule, endpoint path), bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The sentence of a rule that an agent may be shown, bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// A duration of the configuration, milliseconds: a day.
pub const CONFIG_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// One that is about sessions, milliseconds: thirty days.
pub const CONFIG_SESSION_MS_MAX: u64 = 30 * CONFIG_MS_MAX;
/// Cases of one table.
pub const CASES_MAX: usize = 10_000;
/// Repetitions of one call of a case.
pub const CASE_REPEAT_MAX: u64 = 100_000;
/// How long before or after another a call of a case may be, milliseconds.
pub const CASE_MS_MAX: u64 = 366 * CONFIG_MS_MAX;

// ---- review ---------------------------------------------------------------------------------------------------
/// Classes of callers that two policies are compared for; where there are more, only those of one `who` are.
pub const DIFF_CLASSES_MAX: usize = 2_000;
/// Names that a difference shows in one line.
pub const DIFF_PLACES_SHOWN: usize = 8;
/// Groups of recorded decisions that change alike.
pub const REPLAY_GROUPS_MAX: usize = 1_000;
/// Decisions of a group that are shown.
pub const REPLAY_EXAMPLES_MAX: usize = 3;
/// A file of claims, arguments or tools, or a table, bytes.
pub const REVIEW_FILE_BYTES_MAX: usize = CONFIG_BYTES_MAX;

// ---- demo -----------------------------------------------------------------------------------------------------
/// Connections of one of the demo's servers.
pub const DEMO_CONNECTIONS_MAX: usize = 256;
/// Sessions of one of them; then the oldest is forgotten.
pub const DEMO_SESSIONS_MAX: usize = 1024;
/// Records on their way to the terminal; what a stopped terminal does not take is counted and left out.
pub const DEMO_LINES_MAX: usize = 4096;
/// A decision's line waits so long for its outcome before it is shown without, milliseconds.
pub const DEMO_OUTCOME_MS_MAX: u64 = 250;
/// How long the demo's tokens hold, seconds.
pub const DEMO_TOKEN_S: u64 = 12 * 60 * 60;

const _: () = assert!(HEAD_BYTES_MAX <= BUFFER_BYTES, "a whole head fits one pooled buffer");
const _: () = assert!(FIELD_VALUE_BYTES_MAX <= TRACE_FIELD_BYTES_MAX, "what came in a field may go on in one");
const _: () = assert!(FIELD_VALUE_BYTES_MAX < HEAD_BYTES_MAX, "one value cannot fill the head");
const _: () = assert!(TOKEN_BYTES_MAX <= FIELD_VALUE_BYTES_MAX, "a token fits its field");
const _: () = assert!(
    INTROSPECTIONS_WAITING_MAX as u64 * 1000 / INTROSPECTIONS_PER_S_MAX < ERRAND_WAIT_MS_MAX,
    "whoever waits for an issuer's word has it in time"
);
const _: () = assert!(
    INTROSPECTIONS_PER_S_MAX * INTROSPECTION_NEGATIVE_MS / 1000 < INTROSPECTIONS_MAX as u64 / 4,
    "a flood of tokens that nobody knows makes nobody else's go"
);
const _: () = assert!(INTROSPECTION_THREADS_FIRST < INTROSPECTION_THREADS, "those in use are asked about");
const _: () = assert!(INTROSPECTION_THREADS < FETCH_TOKENS_PER_HOST, "one host is not all theirs");
const _: () = assert!(INTROSPECTION_BYTES_MAX <= FETCH_BYTES_MAX, "what may be said can be fetched");
const _: () = assert!(ANSWER_WHOLE_BYTES_MAX >= BUFFER_BYTES, "a short answer is at least one read");
const _: () =
    assert!(CONNECTIONS_MAX * OUTCOME_BYTES_MAX <= RECORD_RING_KEPT_FREE_BYTES, "every call under way can be ended");
const _: () = assert!(RECORD_BYTES_MAX < RECORD_RING_BYTES / 4, "one record never fills the ring");
const _: () = assert!(LOG_COMMON_PAIRS.is_power_of_two(), "a place follows from a hash's bits");
const _: () = assert!(BATCH_MESSAGES_DEFAULT <= BATCH_MESSAGES_MAX, "what holds if nothing is said can be said");
const _: () = assert!(CALLS_PER_SUBJECT_MAX <= CALLS_MAX, "one subject's share is part of the whole");
const _: () = assert!(STREAMS_PER_SUBJECT_MAX <= STREAMS_MAX, "one subject's share is part of the whole");
const _: () = assert!(CALLS_MAX <= PROCESS_CONNECTIONS_MAX, "every call has a connection");
const _: () = assert!(TLS_INCOMING_BYTES_MAX > 16 * 1024 + 2048 + 5, "the largest record fits (RFC 5246, 6.2.3)");
const _: () = assert!(TLS_PIECE_BYTES + 1024 <= ANSWER_WHOLE_BYTES_MAX + HEAD_BYTES_MAX, "a piece fits its buffer");
const _: () = assert!(TLS_HANDSHAKE_BYTES_MAX <= BUFFER_BYTES, "a handshake costs one usual buffer");
const _: () = assert!(WATCHDOG_MS_MIN >= 10 * HOUSEKEEPING_MS, "shards beat several times between two pings");
const _: () = assert!(STDIO_PROBE_MS_MAX < PLANE_ANSWER_MS_MAX, "a server that is silent when probed is a legacy one");
