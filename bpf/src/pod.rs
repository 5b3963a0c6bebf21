//! Which of the generated structs are plain data: read from and written to maps and contexts as bytes.

use bytemuck::{Pod, Zeroable};

use crate::Victim;
use crate::skel::{
    frontends_types, netns_types, openers_types, owner_types, scan_types, select_types, tables_types, types,
};

macro_rules! plain_data {
    ($($type:ty),+ $(,)?) => {$(
        // SAFETY: see Pod below.
        unsafe impl Zeroable for $type {}
        // SAFETY: the members are integers, arrays of integers, and structs of the same kind, so any bytes are a value.
        // They fill the struct without hidden padding, which the C side asserts of its size.
        unsafe impl Pod for $type {}
    )+};
}

plain_data!(
    Victim,
    types::bss_counters,
    types::depot,
    types::shard,
    types::skreap_bootstrap,
    types::skreap_cfg,
    types::skreap_connecting,
    types::skreap_connects,
    types::skreap_functions,
    types::skreap_incomplete_update,
    types::skreap_incomplete_bits,
    types::skreap_bootstrap_socket,
    types::skreap_rekey,
    types::skreap_sent,
    types::skreap_sockid,
    types::skreap_victim,
    types::skreap_walk,
    frontends_types::peer,
    frontends_types::skreap_frontend,
    frontends_types::skreap_frontend_counters,
    frontends_types::skreap_frontend_entry,
    frontends_types::skreap_frontend_filter,
    frontends_types::skreap_frontend_state,
    netns_types::netns_entry,
    netns_types::netns_list,
    openers_types::opener,
    owner_types::owner_request,
    scan_types::scan,
    scan_types::scan_hit,
    scan_types::skreap_victim,
    select_types::select_request,
    select_types::skreap_victim,
    tables_types::skreap_victim,
    tables_types::tables_netns,
    tables_types::tables_request,
    tables_types::tables_socket,
);
