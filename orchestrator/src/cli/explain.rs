//! `onramp explain E012`: the long form of an error code.

use tasks::{Code, Failure};

pub(super) fn explain(code: Option<&str>) -> Result<u8, Failure> {
    let Some(code) = code else {
        for code in Code::ALL {
            println!("{code}  {}", code.meaning());
        }
        return Ok(0);
    };
    let code: Code = code.parse().map_err(|error| {
        Failure::new(Code::Usage, format!("{error}")).next("`onramp explain` without a code lists them all.")
    })?;
    println!("{code}: {}\n\nnext: {}\n\nexit code: {}", code.meaning(), code.next_step(), code.exit_code());
    Ok(0)
}
